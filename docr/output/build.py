"""Making records out of what the rooms return: one function for each way a page can end."""

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from docr.errors import FailureCode
from docr.escape import escaped
from docr.output.figures import FigureFile
from docr.output.line import sealed
from docr.output.record import (
    Confidence,
    DocumentRecord,
    Figure,
    ImageInfo,
    ModelInfo,
    PageEntry,
    PageRecord,
    RunInfo,
    SourceInfo,
    Totals,
)
from docr.types import Block, Completion, Grid, PageFailure, PageImage, ParsedPage


def finished_page(
    *,
    source: SourceInfo,
    image: PageImage,
    grid: Grid,
    mode: str,
    paper_tokens: int,
    sequence_tokens: int,
    completion: Completion,
    parsed: ParsedPage,
    figures: Sequence[FigureFile] = (),
    state: Literal["ok", "blank", "truncated", "repetition", "damaged"],
    model: ModelInfo,
    fingerprint: str,
    run: RunInfo,
    keep_tokens: bool = False,
) -> PageRecord:
    """Record a page that the model has read.

    `paper_tokens` and `sequence_tokens` are the mode's two counts of vision tokens for `grid`;
    `figures` are `parsed.figures` cut out of `image` by `cut_figures()`; `keep_tokens` keeps all
    generated ids.
    """
    # The last id is the end of sequence where the model stopped by itself.
    output_tokens = len(completion.token_ids) - (completion.finish_reason == "stop")
    output_tokens = max(output_tokens, 0)
    return sealed(
        PageRecord(
            fingerprint=fingerprint,
            source=source,
            page=image.ref.number,
            state=state,
            rendered_by=image.rendered_by,
            image=_image_info(image),
            mode=mode,
            grid=grid,
            model=model,
            output_tokens=output_tokens,
            vision_tokens=paper_tokens,
            sequence_tokens=sequence_tokens,
            compression=round(output_tokens / paper_tokens, 4),
            finish_reason=completion.finish_reason,
            confidence=_confidence(completion),
            markdown=_ended(_valid(parsed.markdown)),
            blocks=tuple(_valid_block(block) for block in parsed.blocks),
            figures=tuple(
                Figure(
                    file=figure.name,
                    sha256=hashlib.sha256(figure.png).hexdigest(),
                    bytes=len(figure.png),
                    box_px=figure.box_px,
                )
                for figure in figures
            ),
            raw=_valid(completion.text),
            token_ids=completion.token_ids if keep_tokens else None,
            run=run,
        )
    )


def blank_page(
    *,
    source: SourceInfo,
    image: PageImage,
    mode: str,
    state: Literal["blank", "damaged"],
    model: ModelInfo,
    fingerprint: str,
    run: RunInfo,
    message: str | None = None,
) -> PageRecord:
    """Record a page that the model was not asked about: nothing on it, or nothing left of it."""
    return sealed(
        PageRecord(
            fingerprint=fingerprint,
            source=source,
            page=image.ref.number,
            state=state,
            message=_one_line(message),
            rendered_by=image.rendered_by,
            image=_image_info(image),
            mode=mode,
            model=model,
            markdown="" if state == "blank" else None,
            run=run,
        )
    )


def failed_page(
    *,
    source: SourceInfo,
    failure: PageFailure,
    mode: str,
    model: ModelInfo,
    fingerprint: str,
    run: RunInfo,
) -> PageRecord:
    """Record a page without a result."""
    return sealed(
        PageRecord(
            fingerprint=fingerprint,
            source=source,
            page=failure.ref.number,
            state=f"failed:{failure.code}",
            code=failure.code,
            message=_one_line(failure.message),
            stage=failure.stage,
            rendered_by=failure.rendered_by,
            mode=mode,
            model=model,
            run=run,
        )
    )


def finished_document(
    *,
    source: SourceInfo,
    page_count: int,
    pages: Sequence[PageEntry],
    rendered_by: str | None,
    warnings: Sequence[str] = (),
    fingerprint: str,
    run: RunInfo,
) -> DocumentRecord:
    """Record a document whose selected pages have records (`Store.finished_pages()`)."""
    states = Counter(page.state for page in pages)
    has_failures = any(page.is_failure for page in pages)
    return sealed(
        DocumentRecord(
            fingerprint=fingerprint,
            source=source,
            state="partial" if has_failures else "ok",
            rendered_by=rendered_by,
            warnings=tuple(escaped(warning) for warning in warnings),
            page_count=page_count,
            complete=len(pages) == page_count,
            totals=Totals(
                pages=dict(sorted(states.items())),
                output_tokens=sum(page.output_tokens for page in pages),
                vision_tokens=sum(page.vision_tokens for page in pages),
            ),
            pages=tuple(sorted(pages, key=lambda page: page.page)),
            run=run,
        )
    )


def failed_document(
    *,
    source: SourceInfo,
    code: FailureCode,
    message: str,
    fingerprint: str,
    run: RunInfo,
    rendered_by: str | None = None,
) -> DocumentRecord:
    """Record a file that failed before its pages were known."""
    return sealed(
        DocumentRecord(
            fingerprint=fingerprint,
            source=source,
            state=f"failed:{code}",
            code=code,
            message=_one_line(message),
            rendered_by=rendered_by,
            page_count=None,
            complete=False,
            totals=Totals(pages={}, output_tokens=0, vision_tokens=0),
            pages=(),
            run=run,
        )
    )


def _image_info(image: PageImage) -> ImageInfo:
    height, width = image.pixels.shape[:2]
    has_points = image.dpi > 0
    return ImageInfo(
        page_pt=image.page_pt if has_points else None,
        px=(width, height),
        dpi=image.dpi if has_points else None,
        rotation=image.rotation,
        warnings=tuple(escaped(warning) for warning in image.warnings),
    )


def _confidence(completion: Completion) -> Confidence | None:
    """None where nothing was generated: there are no probabilities then."""
    mean, least = completion.mean_logprob, completion.min_logprob
    if not completion.token_ids or not math.isfinite(mean) or not math.isfinite(least):
        return None
    return Confidence(
        mean_logprob=round(mean, 3),
        min_logprob=round(least, 3),
        score=round(math.exp(min(mean, 0.0)), 3),
    )


def _one_line(message: str | None) -> str | None:
    """Messages quote paths and libraries: no control character, no undecodable byte stays."""
    return None if message is None else escaped(message)


def _valid(text: str) -> str:
    """Text that UTF-8 can hold: a lone surrogate becomes a question mark."""
    return text.encode("utf-8", "replace").decode()


def _ended(markdown: str) -> str:
    """The content of a file: it ends in a newline unless it is empty."""
    return markdown if markdown.endswith("\n") or not markdown else f"{markdown}\n"


def _valid_block(block: Block) -> Block:
    return replace(block, label=_valid(block.label), text=_valid(block.text))
