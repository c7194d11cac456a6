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

    On Linux it is sealed and mapped, not copied: nobody can change it any more, or cut it short,
    which would end this process (SIGBUS). Elsewhere, where nothing can be sealed, it is copied.

    Raises:
        OSError: it cannot be sealed; whoever wrote it keeps it mapped, or sealed it himself.
    """
    if sys.platform == "linux":
        import fcntl

        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        if not os.fstat(descriptor).st_size:
            return np.empty(0, np.uint8)
        # Private: kernels before 6.7 share nothing that is sealed against writing.
        mapped = mmap.mmap(descriptor, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
        return np.frombuffer(mapped, np.uint8)
    with os.fdopen(os.dup(descriptor), "rb") as file:
        file.seek(0)
        return np.frombuffer(file.read(), np.uint8)
