"""One task being rendered: which pages are asked for, which are settled, and what is left."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from docr.errors import FailureCode, InputError
from docr.pdf import replies, wire
from docr.pdf.kept import Opened
from docr.pdf.launch import Launcher
from docr.pdf.memory import take_contents
from docr.pdf.replies import RenderedPage, RenderTask
from docr.pdf.session import ChildLost, Session
from docr.pdf.settings import MAX_LOST_IN_A_ROW, RenderSettings
from docr.pdf.sources import input_error, open_source
from docr.pdf.wire import Message, WireError
from docr.types import PageFailure, PageRef

MAX_KILLED_PAGES = 3  # of a document; the rest is then skipped

Outcome = RenderedPage | PageFailure


@dataclass(slots=True)
class Strikes:
    """What a document has cost so far, over all its tasks.

    Attributes:
        killed: pages that took their child with them.
        lost: pages of a rescued document, the last ones in a row, that could not be rendered.
    """

    killed: int = 0
    lost: int = 0

    def verdict(self) -> str | None:
        """Why the document is to be given up, or None."""
        if self.killed >= MAX_KILLED_PAGES:
            return f"given up: {self.killed} pages of this document had to be stopped"
        if self.lost >= MAX_LOST_IN_A_ROW:
            return f"given up: {self.lost} pages in a row of this damaged document failed"
        return None


class Work:
    """A task, its open file, and the child that renders it at present.

    Pages are settled in the task's order, each with a memory of its own.

    Args:
        slots: most pages that are asked for and not settled.
        opened: a child that waits for this task, if there is one; taken over.

    Raises:
        InputError: the file cannot be opened, or no child be started.
    """

    def __init__(
        self,
        task: RenderTask,
        launcher: Launcher,
        settings: RenderSettings,
        slots: int,
        strikes: Strikes,
        *,
        opened: Opened | None = None,
    ) -> None:
        self.task = task
        self._launcher = launcher
        self._settings = settings
        self._slots = slots
        self._settled = 0  # positions in task.indexes
        self._asked = 0
        self._opened = False
        self._strikes = strikes
        self._crash: ChildLost | None = None  # of the page that is being tried once more
        if opened is not None:
            self._source, self.session = opened.source, opened.session
            self._opened = True
            try:
                self._ask()
            except OSError as error:
                self.close()
                raise input_error(error) from error
            return
        self._source = open_source(task.source.path)
        try:
            self.session = self._start()
        except OSError as error:
            os.close(self._source)
            raise input_error(error) from error

    @property
    def finished(self) -> bool:
        """Whether every page is settled."""
        return self._settled == len(self.task.indexes)

    def take(self, message: Message) -> Iterator[Outcome]:
        """Understand a message: nothing, an outcome, or the failure of all pages.

        Raises:
            ChildLost: the message makes no sense; the child was killed.
        """
        try:
            if not self._opened and "failed" in message:
                failure = replies.read_failure(message, self._ref())
                yield from self.give_up(failure.code, failure.message, stage="open")
                return
            if self._opened:
                yield from self._settle(self._read(message))
            else:
                replies.read_info(message)
                self._opened = True
        except WireError as error:
            raise self.session.nonsense(error) from error
        if not self.finished:
            try:
                self._ask()
            except OSError as error:  # no memory for a page: this machine's fault
                yield from self.give_up("io-read", input_error(error).message)

    def blame(self, lost: ChildLost) -> Iterator[Outcome]:
        """Record the loss of the child over the page it was at, or over all if that is too much.

        A crash is tried once more in a new child, by the second engine where there is one. A page
        that took too long, or too much memory, has had its chance.
        """
        if lost.code == "page-crash" and self._crash is None:
            self._crash = lost
            return
        self._strikes.killed += 1
        yield from self._settle(self._failure(lost))

    def give_up(
        self, code: FailureCode, message: str, *, stage: Literal["open", "render"] = "render"
    ) -> Iterator[Outcome]:
        """Fail all pages that are left."""
        while not self.finished:
            yield PageFailure(ref=self._ref(), stage=stage, code=code, message=message)
            self._settled += 1

    def restart(self) -> None:
        """Go on with a new child at the first page not settled. Raises OSError."""
        self.session = self._start()

    def close(self) -> None:
        """End the child and close the file."""
        self.session.end()
        os.close(self._source)

    def _start(self) -> Session:
        self._opened = False
        self._asked = self._settled
        return Session(
            self._launcher,
            self.task.source,
            self._source,
            self._settings,
            pages=len(self.task.indexes) - self._settled,
            rescue=self.task.rescued,
        )

    def _settle(self, outcome: Outcome) -> Iterator[Outcome]:
        """Take the outcome of the first page not settled, and give up where that is the end."""
        if isinstance(outcome, PageFailure) and self._crash is not None:
            outcome = self._failure(self._crash)  # how the second try went is of no interest
        self._crash = None
        self._settled += 1
        lost = self.task.rescued and isinstance(outcome, PageFailure)
        self._strikes.lost = self._strikes.lost + 1 if lost else 0
        yield outcome
        if (verdict := self._strikes.verdict()) is not None:
            yield from self.give_up("skipped", verdict)

    def _failure(self, lost: ChildLost) -> PageFailure:
        return PageFailure(ref=self._ref(), stage="render", code=lost.code, message=lost.message)

    def _ref(self) -> PageRef:
        """The first page that is not settled."""
        return PageRef(self.task.source.path, self.task.indexes[self._settled])

    def _ask(self) -> None:
        """Keep the child busy, but not further ahead than its slots. Raises OSError."""
        ahead = min(len(self.task.indexes), self._settled + self._slots)
        for position in range(self._asked, ahead):
            rescue = self._crash is not None and position == self._settled
            self.session.request(self.task.indexes[position], rescue=rescue)
        self._asked = ahead

    def _read(self, message: Message) -> Outcome:
        """The outcome of the page that was asked for first. Raises WireError."""
        if self._asked == self._settled:
            raise WireError("a page that nobody asked for")
        ref = self._ref()
        if wire.integer(message.get("index"), 0, replies.MAX_PAGES) != ref.index:
            raise WireError("another page than was asked for")
        memory = self.session.answered()
        try:
            if "failed" in message:
                return replies.read_failure(message, ref)
            return replies.read_page(message, take_contents(memory), ref, self._settings)
        except PermissionError as error:
            raise WireError("the page's memory was sealed") from error
        except OSError as error:
            return PageFailure(ref, "render", "io-read", input_error(error).message)
        finally:
            os.close(memory)


def unstarted(
    task: RenderTask, error: InputError, *, stage: Literal["open", "render"] = "open"
) -> Iterator[PageFailure]:
    """The failures of a task that cannot, or need not, be begun."""
    for index in task.indexes:
        ref = PageRef(task.source.path, index)
        yield PageFailure(ref=ref, stage=stage, code=error.code, message=error.message)
