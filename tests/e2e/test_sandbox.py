"""The command line on a system that cannot lock up the processes that render."""

import subprocess
import sys
from pathlib import Path

import pytest

from docr.errors import SandboxMissing
from tests.e2e.cli import ECHO, environment, manifest, text_pdf
from tests.fakes import old_kernel

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        not old_kernel.available(), reason="seccomp filters are of Linux, on x86_64 and aarch64"
    ),
]


def docr(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run `docr ARGUMENTS` as on a kernel without the means."""
    python = [sys.executable, "-m", "tests.fakes.old_kernel", sys.executable, "-m", "docr"]
    return subprocess.run(
        [*python, *map(str, arguments)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_it_works_unless_a_sandbox_is_required(tmp_path: Path) -> None:
    source, out = text_pdf(tmp_path / "x.pdf"), tmp_path / "out"
    command = ("convert", source, "-o", out, "--engine", ECHO, "--mode", "tiny")
    done = docr(*command)
    assert done.returncode == 0, done.stderr
    assert [line["state"] for line in manifest(out)] == ["ok"]
    # Though there is nothing left to do: whoever requires it wants to know.
    refused = docr(*command, "--require-sandbox")
    assert refused.returncode == SandboxMissing.exit_code, refused.stderr
    (line,) = refused.stderr.splitlines()
    assert line.startswith("docr: ERROR: --require-sandbox: ")
    configured = tmp_path / "docr.toml"
    configured.write_text("[convert]\nrequire-sandbox = true\n")
    assert docr(*command, "--config", configured).returncode == SandboxMissing.exit_code


def test_doctor_tells(tmp_path: Path) -> None:
    told = docr("doctor", "--no-model").stdout
    assert "warn  sandbox: " in told, told
    assert "no_new_privs" in told
