"""The public records: what docr writes about each page, each document, and in the manifest.

The schema is versioned by `schema_version`; `docr schema` prints it as JSON Schema. How a record
lies in its file stands in line.py.

Two runs over the same input with the same settings write equal records, except for `run`,
`confidence` (equal to 2e-3: batching moves the last bits) and, as it covers both, `checksum`.
"""

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.json_schema import models_json_schema

from docr import __version__
from docr.errors import FailureCode
from docr.escape import escaped
from docr.events import DONE_STATES
from docr.types import Block, FinishReason, Grid, SourceFile

SCHEMA_VERSION = 1

JSON = None | bool | int | float | str | list["JSON"] | dict[str, "JSON"]

State = Annotated[str, Field(pattern=r"^(ok|blank|truncated|repetition|damaged|failed:[a-z-]+)$")]
"""How a page ended. "failed:<code>" has a FailureCode, which the field `code` repeats."""

PageNumber = Annotated[int, Field(ge=1, description="1-based")]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="null")


class SourceInfo(_Model):
    r"""The input file.

    Attributes:
        root: the directory it was found under, absolute.
        path: below `root`, "/" between components. Control characters, bidi marks and bytes that
            are not UTF-8 are escaped as \xNN or \uNNNN in both; the exact bytes are then in
            `root_b64`, `path_b64` (base64), which are null otherwise.
        sha256: of the content; null, as `bytes`, if it could not be read.
    """

    root: str
    root_b64: str | None = None
    path: str
    path_b64: str | None = None
    sha256: Sha256 | None
    bytes: int | None

    @classmethod
    def of(cls, source: SourceFile, *, sha256: str | None, size: int | None) -> Self:
        """Describe a file that was found; `size` in bytes."""
        root, root_b64 = _path_text(os.fspath(source.root))
        path, path_b64 = _path_text(source.relative)
        return cls(
            root=root, root_b64=root_b64, path=path, path_b64=path_b64, sha256=sha256, bytes=size
        )


def exact_path(source: SourceInfo) -> bytes:
    """The input's absolute path, byte for byte."""
    root = _path_bytes(source.root, source.root_b64)
    return root.rstrip(b"/") + b"/" + _path_bytes(source.path, source.path_b64)


def _path_text(raw: str) -> tuple[str, str | None]:
    """A path as text, and in base64 where that text is not the path itself."""
    text = escaped(raw)
    return text, None if text == raw else base64.b64encode(os.fsencode(raw)).decode()


def _path_bytes(text: str, b64: str | None) -> bytes:
    return text.encode() if b64 is None else base64.b64decode(b64)


class ModelInfo(_Model):
    """Which weights wrote the text."""

    name: str
    revision: str | None
    dtype: str


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class RunInfo(_Model):
    """All that may differ between two runs with the same result.

    Attributes:
        id: the run's, as in .docr/runs/<id>.jsonl.
        created: UTC, ISO 8601.
        attempts: how often the page was tried.
        seconds: by stage: render, prepare, vision, prefill, decode, ….
        device: such as "cuda:0" or "cpu".
        batch_pages: most pages that the engine decodes at once.
        drafted_tokens, accepted_tokens: guessed before the model wrote them, and come true.
    """

    id: str
    created: str = Field(default_factory=_now)
    attempts: int = 1
    seconds: dict[str, float] = Field(default_factory=dict)
    device: str | None = None
    batch_pages: int | None = None
    drafted_tokens: int = 0
    accepted_tokens: int = 0


class ImageInfo(_Model):
    """The rendered page.

    Attributes:
        page_pt: (width, height) of the visible page in points; null for a page image.
        px: (width, height) in pixels.
        dpi: pixels per 72 points; null for a page image.
        rotation: the page's /Rotate in degrees, already applied.
        warnings: the rendering engine's complaints.
    """

    page_pt: tuple[float, float] | None
    px: tuple[int, int]
    dpi: float | None
    rotation: int
    warnings: tuple[str, ...]


class Confidence(_Model):
    """Natural logarithms of the chosen tokens' probabilities; `score` is exp(mean_logprob)."""

    mean_logprob: float
    min_logprob: float
    score: float


class Figure(_Model):
    """A picture cut out of the page; `file` is relative to the page's folder."""

    file: str
    sha256: Sha256
    bytes: int
    box_px: tuple[int, int, int, int]


class PageRecord(_Model):
    """One page of one document.

    Attributes:
        fingerprint: of the input's content and of all settings that change the text.
        state, code: how the page ended; `code` is null unless the state is "failed:<code>".
        message, stage: why it has no text, and where that was found.
        rendered_by: rendering engine and version.
        grid: (columns, rows) of local tiles; (1, 1): none.
        output_tokens: generated, end of sequence not counted.
        vision_tokens: as the paper counts them: 64, 100, 256, 400, 100 n + 256.
        sequence_tokens: vision tokens as they stand in the sequence: 73, 111, 273, 421, ….
        compression: output tokens / vision tokens.
        markdown: the content of the page's .md file; null if there is none. No HTML but tables is
            in it, and no link or image but to the page's figures.
        blocks: the page's layout, boxes in three units; texts as the model wrote them.
        raw: all that the model wrote, tags included. Do not render it: a page can make the model
            write anything.
        token_ids: all generated ids, end of sequence included (--keep-tokens).
    """

    schema_version: Literal[1] = 1
    kind: Literal["page"] = "page"
    docr_version: str = __version__
    fingerprint: Sha256
    source: SourceInfo
    page: PageNumber
    state: State
    code: FailureCode | None = None
    message: str | None = None
    stage: str | None = None
    rendered_by: str | None = None
    image: ImageInfo | None = None
    mode: str
    grid: Grid | None = None
    model: ModelInfo
    output_tokens: int = 0
    vision_tokens: int = 0
    sequence_tokens: int = 0
    compression: float | None = None
    finish_reason: FinishReason | None = None
    confidence: Confidence | None = None
    markdown: str | None = None
    blocks: tuple[Block, ...] = ()
    figures: tuple[Figure, ...] = ()
    raw: str | None = None
    token_ids: tuple[int, ...] | None = None
    run: RunInfo
    checksum: str = ""

    @model_validator(mode="after")
    def _state_and_code_agree(self) -> Self:
        if (self.state == f"failed:{self.code}") != (self.code is not None):
            raise ValueError(f"state {self.state!r} does not go with code {self.code!r}")
        return self


@dataclass(frozen=True, slots=True)
class PageEntry:
    """A page, as its document's record lists it, and all that a later run asks about it.

    Attributes:
        page: 1-based number.
        state, code, message, rendered_by, output_tokens, vision_tokens: as in the page's record.
        confidence: the page's `confidence.score`.
        record: path of the page's record, relative to the output folder.
        checksum: the page's record's.
    """

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

    @property
    def is_failure(self) -> bool:
        """Whether the page has no result: damaged or failed."""
        return self.state not in DONE_STATES


def page_entry(record: PageRecord, path: str) -> PageEntry:
    """How a document lists a page whose record is at `path`, relative to the output folder."""
    return PageEntry(
        page=record.page,
        state=record.state,
        code=record.code,
        message=record.message,
        rendered_by=record.rendered_by,
        output_tokens=record.output_tokens,
        vision_tokens=record.vision_tokens,
        confidence=None if record.confidence is None else record.confidence.score,
        record=path,
        checksum=record.checksum,
    )


class Totals(_Model):
    """Sums over a document's pages; `pages` counts them by state."""

    pages: dict[str, int]
    output_tokens: int
    vision_tokens: int


class DocumentRecord(_Model):
    """One document.

    Attributes:
        fingerprint: as its pages'.
        state: "ok": all listed pages have a result; "partial": some are damaged or failed;
            "failed:<code>": the file failed before its pages were known.
        warnings: the rendering engine's complaints on opening the file, such as a repair.
        page_count: pages in the file; null if it failed.
        complete: every page of the file is listed; not so after --pages or a stopped run.
        pages: by number.
    """

    schema_version: Literal[1] = 1
    kind: Literal["document"] = "document"
    docr_version: str = __version__
    fingerprint: Sha256
    source: SourceInfo
    state: Annotated[str, Field(pattern=r"^(ok|partial|failed:[a-z-]+)$")]
    code: FailureCode | None = None
    message: str | None = None
    rendered_by: str | None = None
    warnings: tuple[str, ...] = ()
    page_count: int | None
    complete: bool
    totals: Totals
    pages: tuple[PageEntry, ...]
    run: RunInfo
    checksum: str = ""


class ManifestLine(_Model):
    """A line of manifest.jsonl: a page, or (`page` null) a file that failed before its pages.

    Attributes:
        root, path: the input file, as in `SourceInfo`.
        engine: what rendered the page, or tried to.
        record: path relative to the output folder.
    """

    root: str
    path: str
    page: PageNumber | None
    state: State
    code: FailureCode | None
    message: str | None
    engine: str | None
    record: str


def json_schema() -> dict[str, object]:
    """One JSON Schema for all three kinds of record, each under its name in `$defs`."""
    models = (PageRecord, DocumentRecord, ManifestLine)
    _, definitions = models_json_schema([(model, "serialization") for model in models])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"docr records, version {SCHEMA_VERSION}",
        "anyOf": [{"$ref": f"#/$defs/{model.__name__}"} for model in models],
        **definitions,
    }


def fingerprint(
    source_sha256: str | None,
    text_settings: Mapping[str, JSON],
    *,
    model_name: str,
    revision: str | None,
    dtype: str,
) -> str:
    """Hash everything that decides a page's text; records of another fingerprint are redone."""
    parts = [source_sha256, dict(text_settings), model_name, revision, dtype]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
