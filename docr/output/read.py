"""Reading records back, quickly and without trust: what resume, manifest and status start from.

No pydantic here: a resumed run looks at every page's record, thousands a second. A record counts
only if its checksum holds over every byte of the file; then docr wrote it, and its shape is known.
"""

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypedDict, cast

from docr.errors import FailureCode, OutputError
from docr.escape import escaped
from docr.output.line import verified
from docr.output.names import page_stem
from docr.output.record import SCHEMA_VERSION, PageEntry

log = logging.getLogger(__name__)


class SourceJSON(TypedDict):
    """`SourceInfo` as it lies on disk."""

    root: str
    root_b64: str | None
    path: str
    path_b64: str | None
    sha256: str | None
    bytes: int | None


class FigureJSON(TypedDict):
    """`Figure` as it lies on disk."""

    file: str
    bytes: int


class ConfidenceJSON(TypedDict):
    """`Confidence` as it lies on disk."""

    score: float


class RunJSON(TypedDict):
    """`RunInfo` as it lies on disk."""

    attempts: int


class PageJSON(TypedDict):
    """The members of `PageRecord` that are read back."""

    fingerprint: str
    source: SourceJSON
    page: int
    state: str
    code: FailureCode | None
    message: str | None
    rendered_by: str | None
    output_tokens: int
    vision_tokens: int
    confidence: ConfidenceJSON | None
    markdown: str | None
    figures: list[FigureJSON]
    run: RunJSON
    checksum: str


class PageEntryJSON(TypedDict):
    """`PageEntry` as it lies on disk."""

    page: int
    state: str
    code: FailureCode | None
    message: str | None
    rendered_by: str | None
    output_tokens: int
    vision_tokens: int
    confidence: float | None
    record: str
    checksum: str


class DocumentJSON(TypedDict):
    """The members of `DocumentRecord` that are read back."""

    fingerprint: str
    source: SourceJSON
    state: str
    code: FailureCode | None
    message: str | None
    rendered_by: str | None
    warnings: list[str]
    page_count: int | None
    complete: bool
    pages: list[PageEntryJSON]
    checksum: str


def read_page(path: Path | str) -> PageJSON | None:
    """A page's record, or None if there is none that can be trusted."""
    return cast(PageJSON | None, _read(path, "page"))


def trusted_page(where: Path | str, page: int, fingerprint: str) -> PageJSON | None:
    """A page's record if it is this page's, of this fingerprint, and its figures are there.

    Args:
        where: the document's folder.
        page: 1-based number.
        fingerprint: of the run that asks.
    """
    found = read_page(f"{where}/{page_stem(page)}.json")
    if found is None or found["fingerprint"] != fingerprint or found["page"] != page:
        return None
    try:
        for figure in found["figures"]:
            if Path(where, figure["file"]).stat().st_size != figure["bytes"]:
                return None
    except OSError:
        return None
    return found


def figure_names(page: PageJSON) -> Iterator[str]:
    """The names of a page's files in the folder "figures"."""
    return (figure["file"].removeprefix("figures/") for figure in page["figures"])


def entry_of(page: PageJSON, folder: str) -> PageEntry:
    """How a document lists a page that was read back from its folder below OUT."""
    confidence = page["confidence"]
    return PageEntry(
        page=page["page"],
        state=page["state"],
        code=page["code"],
        message=page["message"],
        rendered_by=page["rendered_by"],
        output_tokens=page["output_tokens"],
        vision_tokens=page["vision_tokens"],
        confidence=None if confidence is None else confidence["score"],
        record=f"{folder}/{page_stem(page['page'])}.json",
        checksum=page["checksum"],
    )


def read_document(path: Path | str) -> DocumentJSON | None:
    """A document's record, or None if there is none that can be trusted."""
    return cast(DocumentJSON | None, _read(path, "document"))


def walk_documents(out: Path) -> Iterator[tuple[str, DocumentJSON]]:
    """All documents below an output folder that can be trusted, in the order of their names.

    Holds one document, and the names of one folder and those above it, at a time.

    Yields:
        (path of the document.json relative to `out`, its content).

    Raises:
        OutputError: a folder cannot be read.
    """
    pending = [""]
    while pending:
        folder = pending.pop()
        document, names = look(out, folder)
        if document is not None:
            yield f"{folder}document.json", document
        pending += [f"{folder}{name}/" for name in reversed(names)]


def look(out: Path, folder: str) -> tuple[DocumentJSON | None, list[str]]:
    """The document in a folder, if it has one that can be trusted, and the names of its folders.

    Args:
        out: the output folder.
        folder: a path below it, ends in "/"; "" for `out` itself.

    Returns:
        The document, and the names, sorted; none if the folder is gone meanwhile.

    Raises:
        OutputError: the folder cannot be read.
    """
    path = f"{folder}document.json"
    document = read_document(f"{out}/{path}")
    if document is None and (out / path).is_file():
        log.warning("%s is damaged; the next run makes it anew", path)
    return document, [name for name in _subfolders(f"{out}/{folder}") if folder or name != ".docr"]


def _subfolders(folder: str) -> list[str]:
    """Names of the folders in a folder, sorted; none if it is gone meanwhile."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise OutputError(f"cannot read {escaped(folder)}: {error.strerror}") from error


def _read(path: Path | str, kind: Literal["page", "document"]) -> object:
    try:
        with open(path, "rb") as file:
            line = file.read()
    except OSError:
        return None
    content = verified(line)
    if content is None:
        return None
    try:
        # As text: from bytes, json would first find out which encoding they are in.
        record = json.loads(content[0].decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return None
    if (
        not isinstance(record, dict)
        or record.get("schema_version") != SCHEMA_VERSION
        or record.get("kind") != kind
    ):
        return None
    record["checksum"] = content[1]
    return record
