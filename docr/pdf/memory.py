"""Memory in which a rendering child hands a page over: an anonymous file, one a page."""

import mmap
import os
import sys
import tempfile

import numpy as np

from docr.types import U8


def make_memory() -> int:
    """The descriptor of a new one, to be closed by the caller; it takes memory where written."""
    if sys.platform == "linux":
        return os.memfd_create("docr-page", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def take_contents(descriptor: int) -> U8:
    """All that was written into a memory: u8 [bytes], read-only; outlives the descriptor.

    On Linux it is mapped, not copied, and its size sealed before: who could cut it short under
    this process's feet would end it (SIGBUS). Bytes that a child changes afterwards are its own
    page's, and any are as good as others. Elsewhere, where nothing can be sealed, it is copied.

    Raises:
        OSError: it cannot be sealed, as whoever wrote it sealed it himself.
    """
    if sys.platform == "linux":
        import fcntl

        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        if not os.fstat(descriptor).st_size:
            return np.empty(0, np.uint8)
        mapped = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
        return np.frombuffer(mapped, np.uint8)
    with os.fdopen(os.dup(descriptor), "rb") as file:
        file.seek(0)
        return np.frombuffer(file.read(), np.uint8)
