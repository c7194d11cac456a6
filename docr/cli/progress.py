"""Showing a run: one live display on a terminal, a plain line each half minute elsewhere."""

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from docr.cli.messages import EXIT_MEANINGS, count, say
from docr.escape import escaped
from docr.events import (
    DONE_STATES,
    DocumentFailed,
    DocumentFinished,
    DocumentFound,
    DocumentsCounted,
    Event,
    ModelReady,
    Notice,
    PageFinished,
    RunStarted,
    Tally,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

HEARTBEAT_SECONDS = 30.0
_MIN_ETA_PAGES = 3  # fewer say nothing about the rest


class Meter:
    """Counts of a run as its events tell them, and the line that shows them.

    Args:
        clock: seconds, ever growing.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since = clock()  # of the work that rates are about
        self.documents = 0  # opened, or failed to
        self.documents_total: int | None = None
        self.pages_known = 0
        self.pages_done = 0  # in this run
        self.reused = 0
        self.failures = 0
        self.output_tokens = 0

    def observe(self, event: Event) -> None:
        """Count an event."""
        match event:
            case DocumentsCounted():
                self.documents_total = event.documents
            case ModelReady():
                self._since = self._clock()  # loading is no part of the speed
            case DocumentFound():
                self.documents += 1
                self.pages_known += event.pages
                self.reused += event.reused
            case DocumentFailed():
                self.documents += 1
                self.failures += 1
            case PageFinished():
                self.pages_done += 1
                self.output_tokens += event.output_tokens
                self.failures += event.state not in DONE_STATES
            case RunStarted() | DocumentFinished() | Notice():
                pass

    def fields(self) -> list[str]:
        """What there is to tell: documents, pages, speed, remaining time, failures."""
        seconds = self._clock() - self._since
        total = self.documents_total
        files = (
            count(self.documents, "file") if total is None else f"{self.documents}/{total} files"
        )
        parts = [
            files,
            f"{self.reused + self.pages_done}/{self.pages_known} pages",
        ]
        if self.pages_done and seconds > 0:
            parts.append(f"{self.pages_done / seconds:.3g} pages/s")
            parts.append(f"{self.output_tokens / seconds:.3g} tokens/s")
        eta = self._eta_seconds(seconds)
        if eta is not None:
            parts.append(f"ETA {'at least ' if total is None else ''}{duration(eta)}")
        parts.append(f"{self.failures} failed")
        return parts

    def _eta_seconds(self, seconds: float) -> float | None:
        pages = self.pages_known
        if self.documents_total is not None and self.documents > 0:
            # Files that are not open yet are taken to be as long as those that are.
            pages = round(pages * max(1.0, self.documents_total / self.documents))
        left = pages - self.reused - self.pages_done
        if self.pages_done < _MIN_ETA_PAGES or left <= 0:
            return None
        return left * seconds / self.pages_done


class Progress:
    """The observer of a run: enter it, hand it to the job, and call `finish` with the tally.

    Args:
        live: whether to draw; None: where stderr is a terminal that can.
        clock: seconds, ever growing.
        write: prints one line where nothing is drawn.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        verbose: bool = False,
        live: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
        write: Callable[[str], None] = say,
    ) -> None:
        self._quiet = quiet
        self._verbose = verbose
        self._clock = clock
        self._write = write
        self._meter = Meter(clock)
        self._spoke = clock()
        self._lock = threading.Lock()  # events come from the job, ticks from a thread
        self._ended = threading.Event()
        self._live: Live | None = None
        if not quiet and (_can_draw() if live is None else live):
            self._live = _live_display(self._draw)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        elif not self._quiet:
            threading.Thread(target=self._tick_on, name="heartbeat", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __call__(self, event: Event) -> None:
        """Take an event: count it, and say what cannot wait."""
        with self._lock:
            self._meter.observe(event)
        match event:
            case DocumentFailed():
                self.line(f"ERROR {event.path}: {event.code}: {event.message}")
            case PageFinished() if event.state not in DONE_STATES:
                code = event.state.removeprefix("failed:")
                detail = f": {event.message}" if event.message else ""
                self.line(f"ERROR {event.path} p.{event.page}: {code}{detail}")
            case PageFinished() if self._verbose:
                self.line(
                    f"{event.path} p.{event.page}: {event.state}, {event.output_tokens} tokens, "
                    f"{event.seconds:.2f} s"
                )
            case Notice() if event.warning:
                self.line(f"warning: {event.text}")
            case Notice() if not self._quiet:
                self.line(f"note: {event.text}")
            case ModelReady() if not self._quiet:
                revision = f" ({event.revision[:12]})" if event.revision else ""
                self.line(
                    f"{event.model}{revision} on {event.device}, {event.dtype}, "
                    f"loaded in {event.seconds:.1f} s"
                )
            case _:
                pass
        self.tick()

    def line(self, text: str) -> None:
        """Print one line, above the display where there is one."""
        if self._live is not None:
            from rich.text import Text

            # Text, not str: brackets in a file name are no markup.
            self._live.console.print(Text(f"docr: {escaped(text)}"), soft_wrap=True)
        else:
            self._write(text)

    def tick(self) -> None:
        """Say where we are, if nothing has been said of it for half a minute."""
        with self._lock:
            if self._quiet or self._live is not None or self._ended.is_set():
                return
            if self._clock() - self._spoke < HEARTBEAT_SECONDS:
                return
            self._spoke = self._clock()
            text = ", ".join(self._meter.fields())
        self._write(text)

    def finish(self, tally: Tally, exit_code: int) -> None:
        """Print the last line: what became of the pages, and what the exit code means."""
        if not self._quiet:
            self.line(summary_line(tally, exit_code))

    def _tick_on(self) -> None:
        while not self._ended.wait(1.0):
            self.tick()

    def _draw(self) -> "RenderableType":
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        with self._lock:
            meter = self._meter
            done, known = meter.reused + meter.pages_done, meter.pages_known
            text = " · ".join(meter.fields())
        lines = Table.grid(expand=True)  # not a Group: a bar does not end its line
        lines.add_row(ProgressBar(total=known or 1, completed=done))
        lines.add_row(Text(text, overflow="ellipsis", no_wrap=True))
        return lines


def summary_line(tally: Tally, exit_code: int) -> str:
    """A run in one line: pages by state, files, speed, and the exit code in words."""
    states = {state: tally.pages[state] for state in DONE_STATES if tally.pages[state]}
    failed = Counter({s: n for s, n in tally.pages.items() if n and s not in DONE_STATES})
    parts = [f"{number} {state}" for state, number in states.items()]
    if failed:
        codes = ", ".join(f"{s.removeprefix('failed:')} {n}" for s, n in failed.most_common())
        parts.append(f"{failed.total()} failed ({codes})")
    text = f"{count(tally.page_count, 'page')}: {', '.join(parts) or 'none'}"
    text += f"; {count(tally.documents, 'file')}"
    if tally.failed_documents:
        text += f", {tally.failed_documents} unreadable"
    if tally.reused:
        text += f"; {count(tally.reused, 'page')} done before"
    if tally.open:
        text += f"; {count(tally.open, 'page')} open"
    fresh = tally.page_count - tally.reused
    if tally.seconds > 0:
        text += f"; {duration(tally.seconds)}"
        text += f", {fresh / tally.seconds:.3g} pages/s" if fresh > 0 else ""
    return f"{text}; exit {exit_code}: {EXIT_MEANINGS.get(exit_code, 'see README')}"


def duration(seconds: float) -> str:
    """A time for people: "8.2 s", "6 min 10 s", "2 h 5 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _console() -> "Console":
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def _can_draw() -> bool:
    # isatty as well: FORCE_COLOR makes rich take any file for a terminal.
    if sys.stderr is None or not sys.stderr.isatty():
        return False
    return not _console().is_dumb_terminal


def _live_display(draw: Callable[[], "RenderableType"]) -> "Live":
    from rich.live import Live

    return Live(
        console=_console(),
        get_renderable=draw,
        refresh_per_second=2,
        transient=True,
        redirect_stdout=False,  # results are nobody's to redraw
    )
