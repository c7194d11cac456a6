"""Children that have counted a document's pages, and wait to render them."""

import os
import threading
from dataclasses import dataclass
from pathlib import Path

from docr.pdf.replies import RenderTask
from docr.pdf.session import Session

MOST_KEPT = 32
"""Children that wait, each with a few megabytes."""

KEPT_PAGES = 16
"""What such a child may render; it must be told before how long it may compute."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A document in a child that has opened it.

    Attributes:
        turn: which document of the run it is.
        source: descriptor of the input.
    """

    turn: int
    path: Path
    source: int
    session: Session

    def close(self) -> None:
        """End the child and close the file."""
        self.session.end()
        os.close(self.source)


class Kept:
    """Those that wait, for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the next two
        self._waiting: list[Opened] = []
        self._closed = False

    def add(self, opened: Opened) -> bool:
        """Have a child wait for its task; whether there is room for it."""
        with self._lock:
            room = not self._closed and len(self._waiting) < MOST_KEPT
            if room:
                self._waiting.append(opened)
        return room

    def take(self, task: RenderTask) -> Opened | None:
        """The child that waits for a task; those that were to come before it are given up."""
        with self._lock:
            opened = next((each for each in self._waiting if each.path == task.source.path), None)
            if opened is None:
                return None
            passed = [each for each in self._waiting if each.turn < opened.turn]
            self._waiting = [each for each in self._waiting if each.turn > opened.turn]
        for each in passed:
            each.close()
        if task.rescued or len(task.indexes) > KEPT_PAGES or not opened.session.is_silent():
            opened.close()
            return None
        return opened

    def close(self) -> None:
        """End them all; none waits from now on."""
        with self._lock:
            self._closed = True
            waiting, self._waiting = self._waiting, []
        for opened in waiting:
            opened.close()
