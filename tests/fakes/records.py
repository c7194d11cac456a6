"""Records to store, made as a run makes them, from pages that nobody rendered."""

import hashlib
from pathlib import Path

import numpy as np

from docr.output.build import blank_page, failed_page, finished_document, finished_page
from docr.output.figures import FigureFile, cut_figures
from docr.output.record import DocumentRecord, ModelInfo, PageEntry, PageRecord, RunInfo, SourceInfo
from docr.output.record import fingerprint as fingerprint_of
from docr.types import (
    Block,
    Box,
    Completion,
    FinishReason,
    PageFailure,
    PageImage,
    PageRef,
    ParsedPage,
    SourceFile,
)

SETTINGS = {"mode": "base", "task": "markdown", "max_tokens": None}
MODEL = ModelInfo(name="fake", revision="1", dtype="float32")
EOS = 1


def source(name: str = "a.pdf", *, content: bytes = b"%PDF-1.7") -> SourceInfo:
    root = Path("/in")
    found = SourceFile(path=root / name, root=root, relative=name)
    return SourceInfo.of(found, sha256=hashlib.sha256(content).hexdigest(), size=len(content))


def fingerprint(info: SourceInfo) -> str:
    return fingerprint_of(
        info.sha256, SETTINGS, model_name=MODEL.name, revision=MODEL.revision, dtype=MODEL.dtype
    )


def image(number: int = 1, *, size: tuple[int, int] = (60, 80)) -> PageImage:
    width, height = size
    pixels = np.arange(height * width * 3, dtype=np.uint32).reshape(height, width, 3)
    return PageImage(
        ref=PageRef(Path("/in/a.pdf"), number - 1),
        pixels=(pixels * number % 251).astype(np.uint8),
        dpi=144.0,
        page_pt=(width / 2, height / 2),
        rotation=0,
        px_to_pt=None,
        text="text",
        rendered_by="mupdf 1.0",
    )


def completion(
    number: int = 1,
    *,
    finish_reason: FinishReason = "stop",
    mean_logprob: float = -0.12345,
    token_count: int = 50,
) -> Completion:
    ids = tuple(range(2, 2 + token_count)) + ((EOS,) if finish_reason == "stop" else ())
    ref = PageRef(Path("/in/a.pdf"), number - 1)
    return Completion(ref, ids, "text", finish_reason, mean_logprob, 2 * mean_logprob)


def page(
    number: int = 1,
    *,
    info: SourceInfo | None = None,
    run_id: str = "run",
    markdown: str = "# Größe\n\nText",
    figure_count: int = 0,
    finish_reason: FinishReason = "stop",
    mean_logprob: float = -0.12345,
    keep_tokens: bool = False,
) -> tuple[PageRecord, tuple[FigureFile, ...]]:
    """A page with a result, and its figures."""
    info = info or source()
    rendered = image(number)
    boxes = tuple(
        (f"figures/page-{number:04d}-{k}.png", (k, k, k + 9, k + 7))
        for k in range(1, figure_count + 1)
    )
    figures = cut_figures(rendered.pixels, boxes)
    blocks = (Block("title", (Box((1, 2, 3, 4), (5, 6, 7, 8), (0.5, 1.5, 2.5, 3.5)),), "Größe"),)
    states = {"stop": "ok", "length": "truncated", "repetition": "repetition"}
    record = finished_page(
        source=info,
        image=rendered,
        grid=(1, 1),
        mode="base",
        paper_tokens=256,
        sequence_tokens=273,
        completion=completion(number, finish_reason=finish_reason, mean_logprob=mean_logprob),
        parsed=ParsedPage(markdown, blocks, boxes),
        figures=figures,
        state=states[finish_reason],
        model=MODEL,
        fingerprint=fingerprint(info),
        run=RunInfo(id=run_id, seconds={"decode": 0.5}),
        keep_tokens=keep_tokens,
    )
    return record, figures


def blank(number: int = 1, *, info: SourceInfo | None = None, state: str = "blank") -> PageRecord:
    info = info or source()
    return blank_page(
        source=info,
        image=image(number),
        mode="base",
        state=state,
        model=MODEL,
        fingerprint=fingerprint(info),
        run=RunInfo(id="run"),
    )


def failed(
    number: int = 1, *, info: SourceInfo | None = None, code: str = "page-timeout"
) -> PageRecord:
    info = info or source()
    ref = PageRef(Path("/in/a.pdf"), number - 1)
    return failed_page(
        source=info,
        failure=PageFailure(ref, "render", code, "gave up after 30 s", "mupdf 1.0"),
        mode="base",
        model=MODEL,
        fingerprint=fingerprint(info),
        run=RunInfo(id="run"),
    )


def document(
    pages: list[PageEntry], *, info: SourceInfo | None = None, page_count: int | None = None
) -> DocumentRecord:
    info = info or source()
    return finished_document(
        source=info,
        page_count=len(pages) if page_count is None else page_count,
        pages=pages,
        rendered_by="mupdf 1.0",
        fingerprint=fingerprint(info),
        run=RunInfo(id="run"),
    )
