"""From what came of a page to its record on disk and the outcome that is reported of it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from docr.modes.mode import MODES
from docr.modes.parse import parse
from docr.output import build
from docr.output.figures import FigureFile, cut_figures
from docr.output.record import (
    ModelInfo,
    PageEntry,
    PageRecord,
    RunInfo,
    SourceInfo,
    fingerprint,
    page_entry,
)
from docr.output.store import Store
from docr.settings import Settings
from docr.types import Completion, FinishReason, PageFailure, PageImage, PageViews, SourceFile

_STATES: Mapping[FinishReason, Literal["ok", "truncated", "repetition"]] = {
    "stop": "ok",
    "length": "truncated",
    "repetition": "repetition",
}


@dataclass(frozen=True, slots=True)
class Chunk:
    """Pages of one document to work on: the unit that is handed to a device.

    Attributes:
        folder: where the document's records go, below the output folder.
        indexes: 0-based pages, ascending.
        attempts: how often earlier runs have tried a page, where they did.
        rescued: only the second rendering engine could open the file.
    """

    file: SourceFile
    source: SourceInfo
    folder: str
    indexes: tuple[int, ...]
    attempts: Mapping[int, int] = field(default_factory=dict)
    rescued: bool = False


@dataclass(frozen=True, slots=True)
class PageOutcome:
    """What became of a page. Small: pixels and text stay where they were written.

    Attributes:
        entry: the page as its document lists it.
        seconds: work on this page by stage.
        result: the record itself, only in a run without a folder.
    """

    folder: str
    index: int
    entry: PageEntry
    seconds: Mapping[str, float]
    result: PageRecord | None


class PageWriter:
    """Makes and stores the records of one run's pages.

    Args:
        out: the output folder; None: nothing is stored, outcomes carry their records.
        device, batch_pages: of the engine, for the records' `run`.
    """

    def __init__(
        self,
        settings: Settings,
        model: ModelInfo,
        *,
        out: Path | None,
        run_id: str,
        device: str | None = None,
        batch_pages: int | None = None,
    ) -> None:
        assert settings.mode is not None, "not completed"
        self._settings = settings
        self._text_settings = settings.text_settings()
        self._mode = MODES[settings.mode]
        self._model = model
        self._store = None if out is None else Store.attach(out, run_id=run_id)
        self._run_id = run_id
        self._device = device
        self._batch_pages = batch_pages

    def completed(
        self,
        chunk: Chunk,
        completion: Completion,
        image: PageImage,
        views: PageViews,
        *,
        sequence_tokens: int,
        seconds: dict[str, float],
    ) -> PageOutcome:
        """Understand what the model wrote, cut out its figures, store all of it."""
        start = time.monotonic()
        parsed = parse(
            completion.text,
            ref_number=completion.ref.number,
            image_size=views.image_size,
            px_to_pt=image.px_to_pt,
            header_footer=self._settings.header_footer,
        )
        figures = cut_figures(image.pixels, parsed.figures)
        seconds["parse"] = time.monotonic() - start
        record = build.finished_page(
            source=chunk.source,
            image=image,
            grid=views.grid,
            mode=self._mode.name,
            paper_tokens=self._mode.paper_tokens(views.grid),
            sequence_tokens=sequence_tokens,
            completion=completion,
            parsed=parsed,
            figures=figures,
            state=_STATES[completion.finish_reason],
            model=self._model,
            fingerprint=self.fingerprint(chunk.source.sha256),
            run=self._run(chunk, completion.ref.index, seconds, completion),
            keep_tokens=self._settings.keep_tokens,
        )
        return self._store_page(chunk, completion.ref.index, record, seconds, figures)

    def empty(self, chunk: Chunk, image: PageImage, *, seconds: dict[str, float]) -> PageOutcome:
        """Record a page with nothing on it, or nothing left of it.

        A rendering engine's complaint about an empty page means that it could not draw what is
        there.
        """
        damaged = bool(image.warnings)
        record = build.blank_page(
            source=chunk.source,
            image=image,
            mode=self._mode.name,
            state="damaged" if damaged else "blank",
            message="; ".join(image.warnings) if damaged else None,
            model=self._model,
            fingerprint=self.fingerprint(chunk.source.sha256),
            run=self._run(chunk, image.ref.index, seconds),
        )
        return self._store_page(chunk, image.ref.index, record, seconds)

    def failed(
        self, chunk: Chunk, failure: PageFailure, *, seconds: dict[str, float]
    ) -> PageOutcome:
        """Record a page without a result."""
        record = build.failed_page(
            source=chunk.source,
            failure=failure,
            mode=self._mode.name,
            model=self._model,
            fingerprint=self.fingerprint(chunk.source.sha256),
            run=self._run(chunk, failure.ref.index, seconds),
        )
        return self._store_page(chunk, failure.ref.index, record, seconds)

    def fingerprint(self, sha256: str | None) -> str:
        """What a record of this run is recognised by, for a file of this content."""
        return fingerprint(
            sha256,
            self._text_settings,
            model_name=self._model.name,
            revision=self._model.revision,
            dtype=self._model.dtype,
        )

    def _run(
        self,
        chunk: Chunk,
        index: int,
        seconds: Mapping[str, float],
        completion: Completion | None = None,
    ) -> RunInfo:
        return RunInfo(
            id=self._run_id,
            attempts=1 + chunk.attempts.get(index, 0),
            seconds={stage: round(value, 4) for stage, value in seconds.items()},
            device=self._device,
            batch_pages=self._batch_pages,
            drafted_tokens=completion.drafted if completion else 0,
            accepted_tokens=completion.accepted if completion else 0,
        )

    def _store_page(
        self,
        chunk: Chunk,
        index: int,
        record: PageRecord,
        seconds: dict[str, float],
        figures: tuple[FigureFile, ...] = (),
    ) -> PageOutcome:
        start = time.monotonic()
        if self._store is None:
            entry, result = page_entry(record, ""), record
        else:
            entry, result = self._store.write_page(chunk.folder, record, figures=figures), None
        seconds["write"] = time.monotonic() - start
        return PageOutcome(chunk.folder, index, entry, seconds, result)
