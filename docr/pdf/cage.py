"""Rendering in processes that may hang, crash or run out of memory without harm to the run.

    with Cage(settings, transform="docr.modes.prepare:prepare_views", transform_arg=mode) as cage:
        info = cage.inspect(source, keep=True)         # blocks; from any thread
        cage.submit(RenderTask(source, (0, 1, 2)))     # submit and poll: from one thread
        while cage.pending:
            for outcome in cage.poll(1.0, limit=4): …  # RenderedPage or PageFailure, once a page

A child works on one document and is asked for one page after another, never for more than a few
that nobody has polled: then it waits. A page that outlives its time is killed with its child, and
the next page goes on in a new one. The child that counted a document's pages may be kept to render
them: starting another would take as long as drawing a page.
"""

import itertools
import os
import selectors
import sys
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from docr.errors import DocrError, InputError
from docr.pdf import replies
from docr.pdf.kept import KEPT_PAGES, Kept, Opened
from docr.pdf.launch import ForkingLauncher, Launcher, SpawningLauncher, setup_message
from docr.pdf.limits import allow_open_files, require_file_size
from docr.pdf.memory import make_memory
from docr.pdf.replies import DocumentInfo, RenderedPage, RenderTask
from docr.pdf.session import ChildLost, Session, StartCounter
from docr.pdf.settings import RenderSettings, by_second_engine
from docr.pdf.sources import input_error, open_source
from docr.pdf.wire import WireError
from docr.pdf.work import Outcome, Strikes, Work, unstarted
from docr.types import PageRef, SourceFile

__all__ = ["Cage", "DocumentInfo", "Outcome", "RenderSettings", "RenderTask", "RenderedPage"]


class Cage:
    """Children that render; a context manager.

    Args:
        settings: resolution and limits.
        transform: "module:function", called in the child as function(pixels, transform_arg) and
            returning PageViews. Importing the module must not load torch; its `set_up`, where it
            has one, is called before children are locked up.
        transform_arg: anything that pickles.
        workers: documents rendered at the same time.
        slots: pages that a child may have in work, or finished and not polled.
        fork_server: whether children are forked by a server or started one by one; None: a server
            on Linux. It starts at once, so that its imports overlap with what the caller does.

    Raises:
        DocrError: not on this system, or not within its limits.
    """

    def __init__(
        self,
        settings: RenderSettings,
        *,
        transform: str = "docr.modes.prepare:prepare_views",
        transform_arg: object = None,
        workers: int = 1,
        slots: int = 2,
        fork_server: bool | None = None,
    ) -> None:
        if sys.platform == "win32":
            raise DocrError("rendering needs Linux or macOS; on Windows, use WSL")
        require_file_size(replies.page_bytes(settings))
        allow_open_files()
        self._settings = settings
        self._workers = workers
        self._slots = slots
        setup = setup_message(transform, transform_arg)
        forking = sys.platform == "linux" if fork_server is None else fork_server
        self._launcher: Launcher = ForkingLauncher(setup) if forking else SpawningLauncher(setup)
        self._starts = StartCounter()
        self._strikes: dict[Path, Strikes] = {}  # of documents at work, and of bad ones
        self._sandbox: tuple[str, ...] = ()
        self._turns = itertools.count()  # of inspections
        self._kept = Kept()
        self._selector = selectors.DefaultSelector()
        self._waiting: deque[RenderTask] = deque()
        self._at_work: deque[Work] = deque()
        self._ready: deque[Outcome] = deque()
        self._pending = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pending(self) -> int:
        """Pages submitted and not yet returned by poll."""
        return self._pending

    @property
    def tasks(self) -> int:
        """Tasks submitted and not yet finished; may be asked for from any thread."""
        return len(self._waiting) + len(self._at_work)

    @property
    def sandbox(self) -> tuple[str, ...]:
        """The layers that hold the children, as the last of them said; empty before the first."""
        return self._sandbox

    def check_sandbox(self) -> None:
        """Start a child, to see that it can be locked up as the settings require.

        Raises:
            SandboxMissing: it cannot.
            DocrError: no child can be started at all.
        """
        nothing = make_memory()
        try:
            with suppress(InputError, ChildLost):  # an empty file, and no document
                self._open(SourceFile(Path(), Path(), ""), nothing)[0].end()
        finally:
            os.close(nothing)

    def inspect(
        self, source: SourceFile, *, sizes: bool = False, keep: bool = False
    ) -> DocumentInfo:
        """Open a document in a child of its own and count its pages. Thread-safe; blocks.

        Where the first engine crashes or hangs over it, the second is asked in another child.

        Args:
            source: the file.
            sizes: ask for the size of each page as well, which loads them all.
            keep: a task of this document will follow, in the order of inspection. Its child waits
                for that, if not too many do, and until a later one's turn comes.

        Raises:
            InputError: it cannot be opened, or not within page_timeout.
            DocrError: no child can be started at all, or none in the sandbox that is required.
        """
        turn = next(self._turns)
        descriptor = open_source(source.path)
        try:
            session, info = self._open_either(source, descriptor, sizes=sizes)
        except BaseException as error:
            os.close(descriptor)
            if isinstance(error, OSError):
                raise input_error(error) from error
            raise
        opened = Opened(turn, source.path, descriptor, session)
        if not keep or by_second_engine(info.rendered_by) or not self._kept.add(opened):
            opened.close()
        return info

    def _open_either(
        self, source: SourceFile, descriptor: int, *, sizes: bool
    ) -> tuple[Session, DocumentInfo]:
        """A child that has opened the document. Raises InputError and OSError."""
        try:
            return self._open(source, descriptor, sizes=sizes)
        except ChildLost as lost:
            refused = InputError(lost.code, lost.message)
            if lost.code in ("page-crash", "page-timeout"):
                with suppress(InputError, ChildLost):
                    return self._open(source, descriptor, sizes=sizes, rescue=True)
            raise refused from lost

    def _open(
        self,
        source: SourceFile,
        descriptor: int,
        *,
        sizes: bool = False,
        rescue: bool = False,
    ) -> tuple[Session, DocumentInfo]:
        """Ask one child that starts. Raises InputError, ChildLost, OSError and DocrError."""
        while True:
            session = Session(
                self._launcher,
                source,
                descriptor,
                self._settings,
                pages=KEPT_PAGES,
                verify=True,
                sizes=sizes,
                rescue=rescue,
            )
            try:
                return session, self._read_info(source, session)
            except ChildLost as lost:
                session.end()
                if lost.started:
                    raise
                self._starts.failed(lost)
            except BaseException:
                session.end()
                raise

    def _read_info(self, source: SourceFile, session: Session) -> DocumentInfo:
        """Wait for what opening the document told. Raises InputError and ChildLost."""
        message = session.first()
        self._sandbox = session.sandbox
        try:
            if "failed" in message:
                failure = replies.read_failure(message, PageRef(source.path, 0))
                raise InputError(failure.code, failure.message)
            return replies.read_info(message, max_pages=self._settings.max_pages)
        except WireError as error:
            raise session.nonsense(error) from error

    def submit(self, task: RenderTask) -> None:
        """Add pages to render; poll starts them, in order of submission."""
        self._pending += len(task.indexes)
        self._waiting.append(task)

    def poll(self, timeout: float, *, limit: int) -> list[Outcome]:
        """Take outcomes, waiting for the first of them at most `timeout` seconds.

        Pages of one task come in their order, those of different tasks as they finish.

        Returns:
            At most `limit` outcomes; none after the timeout, or where none is pending.

        Raises:
            DocrError: no child can be started at all.
        """
        until = time.monotonic() + timeout
        while True:
            self._start_waiting()
            if self._at_work and len(self._ready) < limit:
                self._listen(0.0 if self._ready else until - time.monotonic(), limit)
            if self._ready or not self._pending or time.monotonic() >= until:
                break
        outcomes = [self._ready.popleft() for _ in range(min(limit, len(self._ready)))]
        self._pending -= len(outcomes)
        return outcomes

    def close(self) -> None:
        """Kill all children and forget what is pending."""
        self._kept.close()
        self._selector.close()
        for work in self._at_work:
            work.close()
        self._at_work.clear()
        self._waiting.clear()
        self._ready.clear()
        self._pending = 0
        self._launcher.close()

    def _start_waiting(self) -> None:
        while self._waiting and len(self._at_work) < self._workers:
            task = self._waiting.popleft()
            if not task.indexes:
                continue
            strikes = self._strikes.get(task.source.path, Strikes())
            if (verdict := strikes.verdict()) is not None:
                given_up = InputError("skipped", verdict)
                self._ready.extend(unstarted(task, given_up, stage="render"))
                continue
            try:
                work = Work(
                    task,
                    self._launcher,
                    self._settings,
                    self._slots,
                    strikes,
                    opened=self._kept.take(task),
                )
            except InputError as error:
                self._ready.extend(unstarted(task, error))
            else:
                self._at_work.append(work)
                self._strikes[task.source.path] = strikes
                self._selector.register(work.session.channel, selectors.EVENT_READ, work)

    def _listen(self, timeout: float, limit: int) -> None:
        """Wait for children, take what they have to say up to `limit`, kill who is overdue."""
        earliest = min(work.session.deadline for work in self._at_work)
        timeout = max(0.0, min(timeout, earliest - time.monotonic()))
        self._selector.select(timeout)
        # Once more: a wait during which this process stood still may end empty-handed.
        heard = {key.data for key, _ in self._selector.select(0.0)}
        for work in list(self._at_work):
            if work in heard and len(self._ready) >= limit:
                continue  # not judged unheard: its message may have waited long for us
            try:
                if work in heard:
                    self._hear(work, limit)
                if not work.finished and work.session.deadline <= time.monotonic():
                    raise work.session.overdue()
            except ChildLost as lost:
                self._recover(work, lost)
            else:
                if work.finished:
                    self._selector.unregister(work.session.channel)
                    self._dismiss(work)
        self._at_work.rotate(-1)  # nobody is always heard first

    def _hear(self, work: Work, limit: int) -> None:
        """Take a child's messages. Raises ChildLost."""
        while not work.finished and len(self._ready) < limit:
            message = work.session.receive()
            if message is None:
                return
            self._starts.succeeded()
            self._sandbox = work.session.sandbox
            self._ready.extend(work.take(message))

    def _recover(self, work: Work, lost: ChildLost) -> None:
        """Record the page that a child was lost over, and go on in a new child."""
        self._selector.unregister(work.session.channel)
        work.session.end()
        if lost.started:
            self._ready.extend(work.blame(lost))
        else:
            self._starts.failed(lost)
        if not work.finished:
            try:
                work.restart()
            except OSError as error:
                self._ready.extend(work.give_up("io-read", input_error(error).message))
            else:
                self._selector.register(work.session.channel, selectors.EVENT_READ, work)
                return
        self._dismiss(work)

    def _dismiss(self, work: Work) -> None:
        self._at_work.remove(work)
        work.close()
        path = work.task.source.path
        if self._strikes[path] == Strikes() and all(
            other.task.source.path != path for other in self._at_work
        ):
            del self._strikes[path]  # or they would grow with the collection
