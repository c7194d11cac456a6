"""Opening input files in the parent: regular files only, never blocking on anything else."""

import errno
import os
import stat
from pathlib import Path

from docr.errors import InputError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp"})
PDF_HEAD = b"%PDF-"

# O_NONBLOCK: a file replaced by a FIFO between stat and open must not hang the run.
_OPEN_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_BINARY", 0)
)
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG}
_DENIED = {errno.EACCES, errno.EPERM}


def open_source(path: Path, *, max_bytes: int | None = None) -> int:
    """Open a regular, non-empty file for reading.

    Returns:
        A descriptor; the caller closes it.

    Raises:
        InputError: there is no such file, or it is empty, larger than `max_bytes`, special, or
            cannot be read.
    """
    try:
        require_regular(path.stat())  # before open: opening a device may already act on it
        descriptor = os.open(path, _OPEN_FLAGS)
    except OSError as error:
        raise input_error(error) from error
    try:
        status = os.fstat(descriptor)
        require_regular(status)
        if status.st_size == 0:
            raise InputError("empty-file", "the file is empty")
        if max_bytes is not None and status.st_size > max_bytes:
            size, limit = status.st_size >> 20, max_bytes >> 20
            raise InputError("too-large", f"{size} MiB; --max-file-mib allows {limit}")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def require_regular(status: os.stat_result) -> None:
    """Raise InputError("special-file") for anything but a regular file."""
    if not stat.S_ISREG(status.st_mode):
        raise InputError("special-file", f"{_kind(status.st_mode)}, not a regular file")


def input_error(error: OSError) -> InputError:
    """Say in docr's codes why the system refused a file. Without the path: it stands beside."""
    if error.errno in _ABSENT:
        return InputError("unreadable", "no such file")
    if error.errno in _DENIED:
        return InputError("permission", "permission denied")
    if error.errno == errno.ELOOP:
        return InputError("unreadable", "a symbolic link that leads back to itself")
    if error.errno == errno.ENXIO:
        return InputError("special-file", "a socket or device, not a regular file")
    return InputError("io-read", error.strerror or type(error).__name__)


def _kind(mode: int) -> str:
    names = (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
    )
    return next((name for test, name in names if test(mode)), "a device")
