"""What the last manifest was made from, so that the next one reads only what has changed since.

    OUT/.docr/index.jsonl   a line for each folder, and a last one for the manifest itself

A folder's line says where in manifest.jsonl the lines of its document are, and holds as long as the
folder's stamp: docr renames into a folder whatever it writes there, and that changes the folder's
times, as removing does. So 100,000 documents cost as many looks at folders instead of as many files
read. What somebody alters inside a document.json without replacing it is not seen here; the next
run over that document sees it, and `docr status` does.
"""

import json
import os
import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from docr import __version__
from docr.errors import OutputError
from docr.escape import escaped
from docr.output.files import replace_file, sync_folder, writing

SETTLED_NS = 3 * 10**9
"""Younger stamps are not kept: some file systems tell times two seconds apart, no closer."""

_IN_MEMORY_BYTES = 1 << 20
_COPY_BYTES = 1 << 16
_LAST_LINE_BYTES = 1 << 10  # at most

Stamp: TypeAlias = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Folder:
    """What the manifest takes from a folder.

    Attributes:
        lines: its document's, if it has one.
        names: of the folders in it, sorted.
    """

    lines: bytes
    names: list[str]


def stamp_of(path: Path | str) -> Stamp | None:
    """What a file or folder is known by: inode, size, and times of its last changes, nanoseconds.

    None if it is not there.

    Raises:
        OutputError: the system does not say.
    """
    try:
        found = os.stat(path, follow_symlinks=False)  # noqa: PTH116 (asked of every document)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OutputError(f"cannot read {escaped(str(path))}: {error.strerror}") from error
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


class Index:
    """The last manifest's index, read while the next one's is written.

    Paths of folders are relative to OUT and end in "/"; OUT itself is "". They are asked for and
    added in one order, in which a folder comes before those in it, and these by their names. So
    neither index is ever held in memory.
    """

    def __init__(self, out: Path, *, temporary: Path) -> None:
        """Open the last index of an output folder; it is empty unless it is that manifest's.

        Raises:
            OutputError: there can be no file in `temporary`, which is in the same file system.
        """
        self._path, self._manifest = out / ".docr" / "index.jsonl", out / "manifest.jsonl"
        self._temporary = temporary
        with writing(temporary), tempfile.TemporaryFile(dir=temporary) as probe:
            self._settled = os.fstat(probe.fileno()).st_mtime_ns - SETTLED_NS
        self._next = tempfile.SpooledTemporaryFile(  # noqa: SIM115 (closed by close)
            _IN_MEMORY_BYTES, dir=os.fspath(temporary)
        )
        self._bytes = 0  # of the next manifest
        self._known = self._read()
        self._last = next(self._known, None)

    def close(self) -> None:
        """Let go of both files."""
        self._known.close()
        self._next.close()

    def find(self, path: str, stamp: Stamp) -> Folder | None:
        """What the last manifest took from a folder; None if that may have changed since."""
        parts = path.split("/")
        while self._last is not None and self._last[0] < parts:
            self._last = next(self._known, None)
        if self._last is None or self._last[:2] != (parts, stamp):
            return None
        return self._last[2]

    def add(self, path: str, stamp: Stamp, folder: Folder) -> None:
        """Note what the next manifest takes from a folder.

        Raises:
            OutputError: the disk is full.
        """
        if max(stamp[2:]) < self._settled:
            line = json.dumps([path, stamp, self._bytes, len(folder.lines), folder.names])
            with writing(self._temporary):
                self._next.write(line.encode() + b"\n")
        self._bytes += len(folder.lines)

    def replace(self) -> None:
        """Keep what was added, for the manifest that is there now.

        Raises:
            OutputError: the disk is full or the folder cannot be written.
        """
        with writing(self._temporary):
            self._next.write(json.dumps(self._seal()).encode() + b"\n")
            self._next.seek(0)
        chunks = iter(lambda: self._next.read(_COPY_BYTES), b"")
        if replace_file(self._path, chunks, temporary=self._temporary):
            sync_folder(self._path.parent)

    def _seal(self) -> list[object]:
        """The last line: whose lines these are, and which docr's."""
        stamp = stamp_of(self._manifest)
        return [__version__, None if stamp is None else [*stamp]]

    def _read(self) -> Generator[tuple[list[str], Stamp, Folder], None, None]:
        """The folders of the last index, each as (parts of its path, stamp, the folder)."""
        try:
            with self._path.open("rb") as index, self._manifest.open("rb") as manifest:
                index.seek(-min(_LAST_LINE_BYTES, index.seek(0, os.SEEK_END)), os.SEEK_END)
                if json.loads(index.readlines()[-1]) != self._seal():
                    return
                index.seek(0)
                for line in index:
                    entry = json.loads(line)
                    if len(entry) == 2:
                        return
                    path, stamp, start, length, names = entry
                    manifest.seek(start)
                    yield path.split("/"), tuple(stamp), Folder(manifest.read(length), names)
        except (OSError, ValueError, IndexError):
            return  # none, or damaged: what is not found is read again
