"""What a rendering child denies itself before it opens a document, as far as the system has it."""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from docr.errors import OutputError
from docr.pdf import landlock, seccomp

if sys.platform != "win32":
    import resource

_OPEN_FILES = 4096
"""Of the main process."""

_MAX_OPEN_FILES = 64  # of a child
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38


def ignore_signals() -> None:
    """Leave Ctrl-C, TERM and HUP to the main process, which ends its children by itself.

    A stop meant for all processes must not look like pages that crash.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if number := getattr(signal, name, None):
            signal.signal(number, signal.SIG_IGN)


def require_file_size(needed: int) -> None:
    """See that children can write the pages, whose shared memory is a file to the system.

    Else every page would fail, and each be blamed.

    Args:
        needed: bytes.

    Raises:
        OutputError: files may not be so large (ulimit -f).
    """
    if sys.platform != "win32":
        most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        if most != resource.RLIM_INFINITY and most < needed:
            raise OutputError(
                f"files may have {most >> 10} KiB here (ulimit -f); rendering needs "
                f"{needed >> 10}, fewer with a smaller --max-pixels"
            )


def allow_open_files() -> None:
    """Let this process have enough files open: each page in flight is one, each child four."""
    if sys.platform != "win32":
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < _OPEN_FILES:
            with suppress(OSError, ValueError):  # macOS names a limit that it does not grant
                resource.setrlimit(resource.RLIMIT_NOFILE, (min(_OPEN_FILES, hard), hard))


def die_with_parent(parent: int) -> None:
    """Linux: be killed when the parent, which must be single-threaded, ends in whatever way."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        os._exit(1)


def confine(*, memory_bytes: int, output_bytes: int, cpu_seconds: int) -> tuple[str, ...]:
    """Bound this process for the rest of its life, and lock it up as far as the system can.

    Args:
        memory_bytes: address space; beyond it allocations fail, which MuPDF reports.
        output_bytes: size of any file it writes, the shared memory among them.
        cpu_seconds: of computing, for all that is asked of it. Its deadlines end it earlier; this
            is for one that was taken over and whose parent is busy.

    Returns:
        The layers of the sandbox that took effect; see `docr doctor`.
    """
    if sys.platform == "win32":
        return ()
    for limit, value, spare in (
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_CPU, cpu_seconds, 1),  # so that SIGXCPU comes, and then SIGKILL
        (resource.RLIMIT_FSIZE, output_bytes, 0),
        (resource.RLIMIT_NOFILE, _MAX_OPEN_FILES, 0),
        (resource.RLIMIT_AS, memory_bytes, 0),
    ):
        hard = resource.getrlimit(limit)[1]
        ceiling = value + spare if hard == resource.RLIM_INFINITY else min(value + spare, hard)
        try:
            resource.setrlimit(limit, (min(value, ceiling), ceiling))
        except (OSError, ValueError):
            continue  # macOS refuses RLIMIT_AS; the deadline still holds
    return _lock_up() if sys.platform == "linux" else ()


def _lock_up() -> tuple[str, ...]:
    """Linux: no network, no files to write, no programs. Names the layers that took effect."""
    layers = (
        # First: without it the others need a privilege.
        ("no_new_privs", lambda: ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0),
        ("landlock", landlock.restrict),
        ("seccomp", seccomp.restrict),
    )
    return tuple(name for name, apply in layers if apply())


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Be killed by the kernel if the block takes longer.

    The parent enforces deadlines; this stands in for a parent that is gone or busy. The signal
    keeps its default action, since no Python handler would run while MuPDF holds the lock.
    """
    if sys.platform == "win32":
        yield
        return
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
