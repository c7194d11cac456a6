"""What a run says of itself."""

from collections import Counter
from pathlib import Path

import pytest

from docr.cli.progress import Meter, Progress, duration, summary_line
from docr.events import (
    DocumentFailed,
    DocumentFinished,
    DocumentFound,
    ModelReady,
    Notice,
    PageFinished,
    RunStarted,
    Tally,
)


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def _page(number: int, state: str = "ok", message: str | None = None) -> PageFinished:
    return PageFinished("a.pdf", number, state, message, "a.pdf/page.json", 100, 273, 0.5)


def _progress(clock: Clock, **options: bool) -> tuple[Progress, list[str]]:
    lines: list[str] = []
    return Progress(live=False, clock=clock, write=lines.append, **options), lines


def test_speed_and_remaining_time_leave_out_the_loading() -> None:
    clock = Clock()
    meter = Meter(clock)
    meter.observe(RunStarted("1", Path("out")))
    clock.now += 60
    meter.observe(ModelReady("m", "r", "cpu", "float32", 60.0))
    meter.observe(DocumentFound("a.pdf", 30, 10))
    clock.now += 5
    for number in range(1, 11):
        meter.observe(_page(number))
    assert meter.fields() == [
        "1 file",
        "20/30 pages",
        "2 pages/s",
        "200 tokens/s",
        "ETA at least 5.0 s",  # files not yet opened have pages, too
        "0 failed",
    ]
    meter.observe(DocumentFailed("b.pdf", "not-a-pdf", "it is text"))
    meter.observe(DocumentFinished("a.pdf", 30, 0))
    assert meter.fields()[0] == "2 files" and meter.fields()[-1] == "1 failed"


def test_one_line_each_half_minute() -> None:
    clock = Clock()
    progress, lines = _progress(clock)
    progress(RunStarted("1", Path("out")))
    progress(DocumentFound("a.pdf", 500, 0))
    for number in range(1, 301):
        clock.now += 0.5
        progress(_page(number))
        progress.tick()
    assert len(lines) == 5  # 150 seconds
    assert "60/500 pages" in lines[0] and "2 pages/s" in lines[0]


def test_failures_are_said_at_once_and_on_one_line() -> None:
    progress, lines = _progress(Clock(), quiet=True)
    progress(DocumentFailed("b\n.pdf", "encrypted", "needs a password"))
    progress(_page(3, "failed:page-timeout", "took over 30 s"))
    progress(_page(4, "damaged"))
    progress(_page(5, "truncated"))
    assert lines == [
        "ERROR b\n.pdf: encrypted: needs a password",  # `say` escapes
        "ERROR a.pdf p.3: page-timeout: took over 30 s",
        "ERROR a.pdf p.4: damaged",
    ]


def test_quiet_says_no_notes_no_heartbeat_and_no_last_line() -> None:
    clock = Clock()
    progress, lines = _progress(clock, quiet=True)
    with progress:
        progress(Notice("3 files skipped"))
        progress(ModelReady("m", "r", "cpu", "float32", 1.0))
        clock.now += 100
        progress(_page(1))
        progress.finish(Tally(), 4)
    assert lines == []
    progress(Notice("half the batch", warning=True))
    assert lines == ["warning: half the batch"]


def test_verbose_says_every_page() -> None:
    progress, lines = _progress(Clock(), verbose=True)
    progress(_page(1))
    assert lines == ["a.pdf p.1: ok, 100 tokens, 0.50 s"]


def test_last_line_counts_every_state() -> None:
    states = {"ok": 90, "blank": 4, "truncated": 1, "damaged": 1, "failed:page-timeout": 3}
    tally = Tally(
        documents=7,
        failed_documents=2,
        pages=Counter(states),
        reused=49,
        open=0,
        seconds=100.0,
    )
    assert summary_line(tally, 3) == (
        "99 pages: 90 ok, 4 blank, 1 truncated, 4 failed (page-timeout 3, damaged 1); "
        "7 files, 2 unreadable; 49 pages done before; 1 min 40 s, 0.5 pages/s; "
        "exit 3: some files or pages failed"
    )
    assert "0 pages: none; 1 file;" in summary_line(Tally(documents=1), 4)
    assert "12 pages open" in summary_line(Tally(open=12), 130)


def test_live_display_leaves_markup_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Progress(live=True) as progress:
        progress(RunStarted("1", Path("out")))
        progress(DocumentFound("[red]a.pdf", 2, 0))
        progress(PageFinished("[red]\x1b[31m.pdf", 1, "failed:page-crash", "[/]", None, 0, 0, 0.1))
        progress.finish(Tally(), 3)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert r"docr: ERROR [red]\x1b[31m.pdf p.1: page-crash: [/]" in captured.err
    assert "exit 3" in captured.err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.9, "59.9 s"), (60, "1 min 0 s"), (3725, "1 h 2 min")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_live_display_shows_the_bar_and_the_counts() -> None:
    import io

    from rich.console import Console

    progress = Progress(live=True)
    progress._ended.set()
    for event in (
        DocumentFound("a.pdf", pages=4, reused=0),
        PageFinished("a.pdf", 1, "ok", None, None, 30, 64, 0.1),
    ):
        progress._meter.observe(event)
    output = io.StringIO()
    Console(file=output, width=90).print(progress._draw())
    bar, counts = output.getvalue().splitlines()
    assert "━" in bar
    assert "1 file" in counts and "1/4 pages" in counts and "0 failed" in counts
