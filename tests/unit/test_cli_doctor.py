"""`docr doctor` on a machine without weights."""

import json
import os
import subprocess
import sys
from pathlib import Path


def test_doctor_works_without_weights_and_says_how_to_get_them(tmp_path: Path) -> None:
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("DOCR_", "HF_", "XDG_"))}
    environ |= {"PYTHONPATH": str(Path(__file__).parents[2]), "HOME": str(tmp_path)}
    use = [sys.executable, "-m", "docr", "models", "use", "deepseek-ocr"]
    subprocess.run(use, env=environ, capture_output=True, timeout=60, check=True)
    result = subprocess.run(
        [sys.executable, "-m", "docr", "doctor", "--json"],
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 7, result.stderr
    report = json.loads(result.stdout)
    checks = {check["name"]: check for check in report["checks"]}
    assert report["ok"] is False
    assert checks["weights"]["state"] == "fail"
    assert "docr models pull deepseek-ocr" in checks["weights"]["detail"]
    assert checks["rendering"]["state"] == "ok", checks["rendering"]
    if sys.platform == "linux":
        assert checks["sandbox"]["state"] == "ok", checks["sandbox"]
    assert {"system", "packages", "device", "memory", "disk", "limits", "hub"} <= set(checks)
    assert "recognition" not in checks  # no model, no page
