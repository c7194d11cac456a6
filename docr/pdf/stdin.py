"""What comes on standard input: a document, or a list of names. Both are kept in files."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Self

from docr.errors import OutputError, UsageError
from docr.types import SourceFile

_LIST_CHUNK = 1 << 16


class NameList:
    """The names in a list, as --files-from takes it; may be iterated more than once.

    Args:
        path: a file with one name a line.
        nul_separated: NUL instead of a newline after each name.

    Raises:
        UsageError: on iteration, where the file cannot be read.
    """

    def __init__(self, path: Path, *, nul_separated: bool = False) -> None:
        self._path = path
        self._separator = b"\0" if nul_separated else b"\n"

    @classmethod
    def spooled(cls, stream: BinaryIO, folder: Path, *, nul_separated: bool = False) -> Self:
        """Keep a list that comes through a pipe in a folder. Raises OutputError."""
        return cls(_spool(stream, folder / "files-from"), nul_separated=nul_separated)

    def __iter__(self) -> Iterator[bytes]:
        try:
            with self._path.open("rb") as stream:
                rest = b""
                while chunk := stream.read(_LIST_CHUNK):
                    *names, rest = (rest + chunk).split(self._separator)
                    yield from (name for name in names if name)
                if rest:
                    yield rest
        except OSError as error:
            reason = error.strerror or error
            raise UsageError(f"--files-from {self._path}: {reason}") from error


def spool_stdin(stream: BinaryIO, folder: Path) -> SourceFile:
    """Keep one document from standard input in a folder: a PDF has to be jumped about in.

    Raises:
        OutputError: it cannot be read, or not be written.
    """
    path = _spool(stream, folder.absolute() / "stdin.pdf")
    return SourceFile(path=path, root=path.parent, relative=path.name, named=True)


def _spool(stream: BinaryIO, path: Path) -> Path:
    try:
        with path.open("xb") as copy:
            shutil.copyfileobj(stream, copy)
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"cannot keep standard input in {path.parent}: {reason}") from error
    return path
