"""manifest.jsonl: one line a page, and one for each file that failed before its pages."""

import json
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

from docr.output.files import replace_file, sync_folder
from docr.output.index import Folder, Index, stamp_of
from docr.output.read import DocumentJSON, PageEntryJSON, look

_WRITE_BYTES = 1 << 16


def write_manifest(out: Path, *, temporary: Path) -> None:
    """Rebuild the manifest from the document records, whichever run wrote them.

    Lines of folders that have not changed since the last time are taken over.

    Raises:
        OutputError: the disk is full or the folder cannot be read or written.
    """
    with closing(Index(out, temporary=temporary)) as index:
        chunks = _gathered(folder.lines for folder in _folders(out, index))
        if replace_file(out / "manifest.jsonl", chunks, temporary=temporary):
            sync_folder(out)
        index.replace()


def _folders(out: Path, index: Index) -> Iterator[Folder]:
    """All folders below `out`, noted in the index for the next time."""
    pending = [""]
    while pending:
        path = pending.pop()
        stamp = stamp_of(f"{out}/{path}")
        if stamp is None:
            continue  # gone meanwhile
        folder = index.find(path, stamp) or _read_folder(out, path)
        if folder.lines or not (out / path / "document.json").is_file():  # else damaged: told again
            index.add(path, stamp, folder)
        yield folder
        pending += [f"{path}{name}/" for name in reversed(folder.names)]


def _read_folder(out: Path, path: str) -> Folder:
    document, names = look(out, path)
    if document is None:
        return Folder(b"", names)
    return Folder(b"".join(_lines(f"{path}document.json", document)), names)


def _gathered(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The same in pieces worth a call of the system each."""
    piece = bytearray()
    for part in parts:
        piece += part
        if len(piece) >= _WRITE_BYTES:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece)


def _lines(path: str, document: DocumentJSON) -> Iterator[bytes]:
    """A document's lines, as `ManifestLine` describes them; `path` is its record's."""
    if document["code"] is not None:
        yield _line(document, None, document, path)
    for page in document["pages"]:
        yield _line(document, page["page"], page, page["record"])


def _line(
    document: DocumentJSON, page: int | None, outcome: DocumentJSON | PageEntryJSON, record: str
) -> bytes:
    line = {
        "root": document["source"]["root"],
        "path": document["source"]["path"],
        "page": page,
        "state": outcome["state"],
        "code": outcome["code"],
        "message": outcome["message"],
        "engine": outcome["rendered_by"],
        "record": record,
    }
    return json.dumps(line, ensure_ascii=False).encode() + b"\n"
