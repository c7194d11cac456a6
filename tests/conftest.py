"""What must be settled before anything is imported."""

import os
from pathlib import Path

if not Path("/dev/nvidia0").exists():
    # Triton's kernels then run in its interpreter; it looks when a kernel is defined.
    os.environ.setdefault("TRITON_INTERPRET", "1")
