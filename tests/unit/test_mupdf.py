"""PyMuPDF as docr imports it: the renderer, and nothing that phones home or takes long to load."""

import os
import subprocess
import sys
from pathlib import Path


def test_the_layout_analysis_is_left_out(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom docr.pdf.mupdf import pymupdf\n"
        "assert pymupdf.open().page_count == 0\n"
        "print([n for n in sys.modules if n.startswith(('onnxruntime', 'pymupdf4llm'))])"
    )
    env = os.environ | {"HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
    assert list(tmp_path.iterdir()) == []
