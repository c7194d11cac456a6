"""manifest.jsonl: one line a page, and one for each file that failed before its pages."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from docr.output.files import replace_file, sync_folder
from docr.output.read import DocumentJSON, PageEntryJSON, walk_documents

_WRITE_BYTES = 1 << 16


def write_manifest(out: Path, *, temporary: Path) -> None:
    """Rebuild the manifest from the document records, whichever run wrote them.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    chunks = _gathered(b"".join(_lines(*found)) for found in walk_documents(out))
    if replace_file(out / "manifest.jsonl", chunks, temporary=temporary):
        sync_folder(out)


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
