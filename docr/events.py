"""What a run tells whoever watches it, and the tally it ends with."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from docr.output.record import PageRecord

DONE_STATES = ("ok", "blank", "truncated", "repetition")
"""States of pages that have a result. The others: "damaged" and "failed:<code>"."""


@dataclass(slots=True)
class Tally:
    """Counts of a run or of an output folder; what the exit code is made from.

    Attributes:
        documents: files that were found, readable or not.
        failed_documents: files that failed before their pages were known.
        pages: pages by state, "failed:<code>" kept apart by code.
        reused: pages (all states) that an earlier run had finished.
        open: pages that were wanted and have no record, after a stop.
        output_tokens, vision_tokens: of the pages that reached the model in this run.
        seconds: wall time of the run.
        stage_seconds: time by stage (render, prepare, vision, prefill, decode, write), summed
            over pages; stages of different processes overlap.
    """

    documents: int = 0
    failed_documents: int = 0
    pages: Counter[str] = field(default_factory=Counter)
    reused: int = 0
    open: int = 0
    output_tokens: int = 0
    vision_tokens: int = 0
    seconds: float = 0.0
    stage_seconds: Counter[str] = field(default_factory=Counter)

    @property
    def page_count(self) -> int:
        """Pages with a record, in any state."""
        return sum(self.pages.values())

    @property
    def done_pages(self) -> int:
        """Pages with a result: ok, blank, truncated or repetition."""
        return sum(self.pages[state] for state in DONE_STATES)

    @property
    def failures(self) -> int:
        """Pages damaged or failed, and files failed before their pages were known."""
        return self.page_count - self.done_pages + self.failed_documents

    def exit_code(self, *, strict: bool = False) -> int:
        """The exit code of a run that ended by itself: 0, 3 or 4 (README, "Exit codes")."""
        if self.done_pages == 0:
            return 4
        if self.failures or (strict and (self.pages["truncated"] or self.pages["repetition"])):
            return 3
        return 0


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The output folder is ours and work begins. `out` is None for a run without a folder."""

    run_id: str
    out: Path | None


@dataclass(frozen=True, slots=True)
class DocumentsCounted:
    """The walk is through, far ahead of the work: so many files there are."""

    documents: int


@dataclass(frozen=True, slots=True)
class ModelReady:
    """The engine is loaded: only now is a page recognised."""

    model: str
    revision: str
    device: str
    dtype: str
    seconds: float


@dataclass(frozen=True, slots=True)
class DocumentFound:
    """A file was opened and its pages counted."""

    path: str  # relative to its root, as in the records
    pages: int  # selected by --pages
    reused: int  # of these, finished by an earlier run


@dataclass(frozen=True, slots=True)
class DocumentFailed:
    """A file failed before its pages were known."""

    path: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class PageFinished:
    """A page has its record.

    `result` is the record itself in a run without an output folder, where it is nowhere else.
    """

    path: str
    page: int  # 1-based
    state: str  # "ok", …, "failed:<code>"
    message: str | None
    record: str | None  # path of the record below the output folder
    output_tokens: int
    vision_tokens: int
    seconds: float  # work on this page, all stages
    result: "PageRecord | None" = None


@dataclass(frozen=True, slots=True)
class DocumentFinished:
    """All selected pages of a file have records and its document.json is written."""

    path: str
    pages: int
    failed: int


@dataclass(frozen=True, slots=True)
class Notice:
    """Something a person should know, in one line.

    Such as files skipped by their suffix, a smaller batch after running out of memory, or a mode
    that the model was not trained for.
    """

    text: str
    warning: bool = False


Event = (
    RunStarted
    | DocumentsCounted
    | ModelReady
    | DocumentFound
    | DocumentFailed
    | PageFinished
    | DocumentFinished
    | Notice
)
Observer = Callable[[Event], None]
