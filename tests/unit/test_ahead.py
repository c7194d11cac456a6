"""Rendering goes on by itself, a few pages ahead, and ends with the one who wanted it."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from docr.errors import DocrError
from docr.pdf.ahead import READY_PAGES, Ahead
from docr.pdf.cage import RenderTask
from docr.types import PageFailure, PageRef, SourceFile

SOURCE = SourceFile(Path("a.pdf"), Path(), "a.pdf")


class FakeCage:
    """Gives a failure for each page, at once; breaks after so many."""

    def __init__(self, *, breaks_after: int | None = None) -> None:
        self.waiting: list[int] = []
        self.given = 0
        self.closed = False
        self._breaks_after = breaks_after

    @property
    def pending(self) -> int:
        return len(self.waiting)

    def submit(self, task: RenderTask) -> None:
        self.waiting.extend(task.indexes)

    def poll(self, timeout: float, *, limit: int) -> list[PageFailure]:
        assert 0 < limit <= READY_PAGES
        if self.given == self._breaks_after:
            raise DocrError("no child can be started")
        taken, self.waiting = self.waiting[:1], self.waiting[1:]
        self.given += len(taken)
        ref = (PageRef(SOURCE.path, index) for index in taken)
        return [PageFailure(each, "render", "page-error", "") for each in ref]

    def close(self) -> None:
        self.closed = True


def ahead(cage: Any) -> Ahead:
    return Ahead(cage)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_pages_are_ready_before_they_are_asked_for_but_not_all_of_them() -> None:
    cage = FakeCage()
    rendering = ahead(cage)
    rendering.submit(RenderTask(SOURCE, tuple(range(50))))
    until(lambda: cage.given == READY_PAGES)
    time.sleep(0.1)
    assert cage.given == READY_PAGES and rendering.pending == 50
    taken = rendering.poll(0.0, limit=5)
    assert [page.ref.index for page in taken] == list(range(5))
    until(lambda: cage.given == READY_PAGES + 5)
    while rendering.pending:
        taken += rendering.poll(5.0, limit=7)
    assert [page.ref.index for page in taken] == list(range(50))
    assert rendering.poll(5.0, limit=1) == []  # nothing is pending: at once
    rendering.close()
    assert cage.closed


def test_what_ends_the_cage_is_told_after_what_is_ready() -> None:
    rendering = ahead(FakeCage(breaks_after=2))
    rendering.submit(RenderTask(SOURCE, tuple(range(5))))
    taken = 0
    with pytest.raises(DocrError, match="no child can be started"):
        while True:
            taken += len(rendering.poll(5.0, limit=1))
    assert taken == 2
    rendering.close()


def test_closing_ends_a_thread_that_has_no_room() -> None:
    cage = FakeCage()
    rendering = ahead(cage)
    rendering.submit(RenderTask(SOURCE, tuple(range(50))))
    until(lambda: cage.given == READY_PAGES)
    begun = time.monotonic()
    rendering.close()
    assert cage.closed and time.monotonic() - begun < 2
    assert not any(each.name == "render-ahead" for each in threading.enumerate())
