"""Files that are there whole or not at all, and the lock on an output folder.

A file is written under a temporary name in the same file system, flushed to the disk, renamed over
its target, and the folder flushed, so that neither a killed run nor a power cut leaves half a file
under a final name. Every failure is an OutputError: a run that cannot write cannot go on.
"""

import errno
import json
import os
import secrets
import socket
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from docr.errors import OutputError, OutputLocked
from docr.escape import escaped

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

_ADVICE = {
    **dict.fromkeys(DISK_FULL, "; free some space and run again"),
    errno.ENOENT: "; the folder may have been moved or removed meanwhile",
}


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Turn an OSError on the way to this path into an OutputError that names it."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        advice = _ADVICE.get(error.errno or 0, "")
        raise OutputError(f"cannot write {escaped(str(path))}: {reason}{advice}") from error


def replace_file(target: Path, chunks: Iterable[bytes], *, temporary: Path) -> bool:
    """Write a file whole, unless it already has this content.

    The rename lasts through a power cut only after `sync_folder(target.parent)`.

    Args:
        target: in an existing folder.
        chunks: the content, streamed.
        temporary: a folder in the same file system.

    Returns:
        Whether the file was replaced; an equal one keeps its inode and times.
    """
    name = temporary / f"{os.getpid()}-{secrets.token_hex(8)}"
    with writing(target):
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o666)
        try:
            try:
                for chunk in chunks:
                    _write_all(descriptor, chunk)
                is_new = not _same_content(name, target)
                if is_new:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if is_new:
                name.replace(target)
        finally:
            with suppress(OSError):  # already renamed; or gone with the disk, as the error says
                name.unlink()
    return is_new


def sync_folder(folder: Path) -> None:
    """Make the renames in a folder last."""
    if sys.platform == "win32":
        return  # NTFS journals renames; a folder cannot be opened there
    with writing(folder):
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except PermissionError:
            return  # one that may be written and not read, such as that above the output folder
        try:
            os.fsync(descriptor)
        except OSError as error:
            # Some network and FUSE file systems have no such operation on folders.
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(descriptor)


def make_folder(folder: Path, *, below: Path) -> None:
    """Create a folder and those above it, down from `below`, and refuse to follow links there.

    Raises:
        OutputError: a component is a symbolic link or no folder.
    """
    current = below
    for part in folder.relative_to(below).parts:
        parent, current = current, current / part
        with writing(current):
            if current.is_symlink():
                raise OutputError(f"{current} is a symbolic link; docr writes through none")
            try:
                current.mkdir()
            except FileExistsError:
                if not current.is_dir():
                    raise OutputError(f"{current} is in the way: it is not a folder") from None
                continue
        sync_folder(parent)


class FolderLock:
    """An exclusive lock, held as long as this object's process lives or until `release()`.

    The lock is the operating system's, on a file that stays: a killed run leaves none behind.
    """

    def __init__(self, path: Path, *, run_id: str) -> None:
        """Take the lock at once.

        Raises:
            OutputLocked: another process has it.
            OutputError: the file cannot be written, or the file system knows no locks.
        """
        with writing(path):
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _NO_FOLLOW, 0o666)
            try:
                _lock(self._descriptor)
                started = datetime.now(UTC).isoformat(timespec="seconds")
                content = {"pid": os.getpid(), "host": socket.gethostname(), "started": started}
                os.ftruncate(self._descriptor, 0)
                _write_all(self._descriptor, json.dumps(content | {"run": run_id}).encode())
            except (BlockingIOError, PermissionError):
                holder = _holder(path)
                self.release()
                raise OutputLocked(
                    f"{escaped(str(path.parent.parent))} is in use by another run{holder}"
                ) from None
            except OSError:
                self.release()
                raise

    def release(self) -> None:
        """Give the lock back."""
        os.close(self._descriptor)


def _holder(path: Path) -> str:
    """Who holds the lock, in words; empty where that cannot be read."""
    try:
        held = json.loads(path.read_bytes())
        return escaped(f" (pid {held['pid']} on {held['host']}, since {held['started']})")
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        os.lseek(descriptor, 1 << 20, os.SEEK_SET)  # beyond the content, which others may read
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _same_content(path: Path, target: Path) -> bool:
    """Whether both files exist and are equal; the second one's links are not followed."""
    try:
        if target.is_symlink() or path.stat().st_size != target.stat().st_size:
            return False
        with path.open("rb") as ours, target.open("rb") as theirs:
            while chunk := ours.read(1 << 20):
                if chunk != theirs.read(1 << 20):
                    return False
    except FileNotFoundError:
        return False
    return True


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


_BINARY = getattr(os, "O_BINARY", 0)
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
