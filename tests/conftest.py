"""What must be settled before anything is imported."""

import os
from pathlib import Path

import pytest

if not Path("/dev/nvidia0").exists():
    # Triton's kernels then run in its interpreter; it looks when a kernel is defined.
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture
def interpreter() -> None:
    """Triton's interpreter, which runs kernels on a CPU."""
    pytest.importorskip("triton", reason="Triton is not installed (it is there for Linux)")
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("kernels are compiled where there is a GPU")
