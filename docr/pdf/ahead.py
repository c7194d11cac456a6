"""Rendering that goes on while nobody asks for pages.

A cage moves only while it is polled: children wait for their next page, files for a child. A device
is busy for seconds at a time, so the cage is polled by a thread of its own, which keeps a few pages
ready.
"""

import threading
from collections import deque

from docr.pdf.cage import Cage, DocumentInfo, Outcome, RenderTask
from docr.types import SourceFile

READY_PAGES = 8
"""Rendered and not taken: a device takes no more of them in one of its steps."""

_TICK_SECONDS = 0.05  # a new task may wait so long where others are being rendered
_END_SECONDS = 5.0


class Ahead:
    """A cage and the thread that polls it. Takes the cage over.

    `submit` and `poll` are as the cage's and for one thread; `inspect` is for any.
    """

    def __init__(self, cage: Cage) -> None:
        self._cage = cage
        self._changed = threading.Condition()  # guards all that follows
        self._tasks: deque[RenderTask] = deque()
        self._ready: deque[Outcome] = deque()
        self._error: BaseException | None = None
        self._closing = False
        self._pending = 0
        self._thread = threading.Thread(target=self._run, name="render-ahead", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """Pages submitted and not yet returned by poll."""
        return self._pending

    @property
    def tasks(self) -> int:
        """Tasks submitted and not yet finished."""
        return len(self._tasks) + self._cage.tasks

    def inspect(self, source: SourceFile, *, sizes: bool = False) -> DocumentInfo:
        """Count the pages of a document of which a task will follow; see `Cage.inspect`."""
        return self._cage.inspect(source, sizes=sizes, keep=True)

    def submit(self, task: RenderTask) -> None:
        """Add pages to render, after those submitted before."""
        with self._changed:
            self._pending += len(task.indexes)
            self._tasks.append(task)
            self._changed.notify_all()

    def poll(self, timeout: float, *, limit: int) -> list[Outcome]:
        """Take outcomes, waiting for the first of them at most `timeout` seconds.

        Returns:
            At most `limit` outcomes; none after the timeout, or where none is pending.

        Raises:
            DocrError: no child can be started at all.
        """
        with self._changed:
            if self._pending:
                self._changed.wait_for(lambda: self._ready or self._error, timeout)
            if self._error is not None and not self._ready:
                raise self._error
            outcomes = [self._ready.popleft() for _ in range(min(limit, len(self._ready)))]
            self._pending -= len(outcomes)
            self._changed.notify_all()
        return outcomes

    def close(self) -> None:
        """End the thread and the children, and forget what is pending."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(_END_SECONDS)
        self._cage.close()

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        except BaseException as error:  # of whatever kind: it is raised again in poll
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _turn(self) -> bool:
        """Hand tasks to the cage and take pages from it; whether to go on."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._closing
                    or self._tasks
                    or (self._cage.pending and len(self._ready) < READY_PAGES)
                )
            )
            if self._closing:
                return False
            tasks = list(self._tasks)
            self._tasks.clear()
            room = READY_PAGES - len(self._ready)
        for task in tasks:
            self._cage.submit(task)
        if room > 0:
            outcomes = self._cage.poll(_TICK_SECONDS, limit=room)
            with self._changed:
                self._ready.extend(outcomes)
                self._changed.notify_all()
        return True
