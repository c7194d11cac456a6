"""kill -9 at any moment, then the same command again: nothing lost, nothing done twice."""

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.e2e.cli import (
    SLOW_ECHO,
    docr,
    inodes,
    manifest,
    page_files,
    start,
    text_pdf,
    tree,
    wait_for_records,
)

pytestmark = pytest.mark.e2e

HANG = "tests.fakes.engines:hang"
BATCH_MOMENTS = 10
BATCHES = [0, *(pytest.param(batch, marks=pytest.mark.slow) for batch in range(1, 6))]
CHAIN_KILLS = 5
CHAINS = int(os.environ.get("FAULTS_KILLS", "1000")) // CHAIN_KILLS
PAGES = 32
DEADLINE_S = 60


def arguments(source: Path, out: Path) -> list[str | Path]:
    return ["convert", "--engine", SLOW_ECHO, "--mode", "tiny", source, "-o", out]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kill") / "pdfs"
    folder.mkdir()
    for number in range(4):
        text_pdf(folder / f"{number}.pdf", pages=PAGES // 4, text=f"document {number}")
    return folder


@pytest.fixture(scope="module")
def undisturbed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """The tree of an uninterrupted run, and when each of its records was written."""
    out = tmp_path_factory.mktemp("kill") / "out"
    assert docr(*arguments(source, out)).returncode == 0
    written = sorted(path.stat().st_mtime for path in out.rglob("page-*.json"))
    assert len(written) == PAGES
    return out, written


@pytest.mark.parametrize("batch", BATCHES)
def test_kill_and_resume(
    batch: int, source: Path, undisturbed: tuple[Path, list[float]], tmp_path: Path
) -> None:
    """Moments are drawn from the measured run's time, and waited for as the records it had then.

    A run of its own speed, as on a busy machine, would be over before some of its moments.
    """
    expected, written = undisturbed
    moments = random.Random(batch)
    interrupted = 0
    for number in range(BATCH_MOMENTS):
        out = tmp_path / str(number)
        process = start(*arguments(source, out))
        moment = moments.uniform(written[0], written[-1])
        wait_for_records(out, sum(each <= moment for each in written))
        time.sleep(moments.uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        process.wait()
        kept = {path.relative_to(out).as_posix() for path in page_files(out)}
        interrupted += len(kept) < PAGES
        before = inodes(out)

        again = docr(*arguments(source, out))
        assert again.returncode == 0, again.stderr
        after = inodes(out)
        assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
        assert tree(out) == tree(expected)
    assert interrupted >= 0.8 * BATCH_MOMENTS, f"only {interrupted} kills interrupted work"


@pytest.mark.faults
@pytest.mark.parametrize("chain", range(CHAINS))
def test_killed_again_and_again(
    chain: int, source: Path, undisturbed: tuple[Path, list[float]], tmp_path: Path
) -> None:
    """Each run resumes the one before, and is killed at the next of five moments."""
    expected, written = undisturbed
    out = tmp_path / "out"
    draw = random.Random(f"chain {chain}")
    moments = sorted(draw.uniform(written[0], written[-1]) for _ in range(CHAIN_KILLS))
    before: dict[str, tuple[int, int]] = {}
    interrupted = 0
    for moment in moments:
        count = sum(each <= moment for each in written)
        process = start(*arguments(source, out))
        wait_for_records(out, min(max(count, len(before) + 1), PAGES))
        time.sleep(draw.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        process.wait()
        names = {path.relative_to(out).as_posix() for path in page_files(out)}
        after = {name: each for name, each in inodes(out).items() if name in names}
        interrupted += len(after) < PAGES
        assert {name: after[name] for name in before} == before, "a finished page was touched"
        before = after
    again = docr(*arguments(source, out))
    assert again.returncode == 0, again.stderr
    assert {name: inodes(out)[name] for name in before} == before
    assert tree(out) == tree(expected)
    assert interrupted >= 0.8 * CHAIN_KILLS, f"only {interrupted} kills interrupted work"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_cleanly_and_says_how_to_resume(
    number: signal.Signals, source: Path, tmp_path: Path
) -> None:
    import subprocess
    import sys

    from tests.e2e.cli import environment

    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "docr", *map(str, arguments(source, out))],
        stderr=subprocess.PIPE,
        env=environment(),
        start_new_session=True,
    )
    wait_for_records(out)
    begin = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=DEADLINE_S)
    assert time.monotonic() - begin < 10
    assert process.returncode == 128 + number
    text = said.decode()
    assert "docr convert" in text and "Traceback" not in text
    lines = manifest(out)
    assert 0 < len(lines) <= PAGES
    assert docr(*arguments(source, out)).returncode == 0
    assert len(manifest(out)) == PAGES


def test_nothing_outlives_a_killed_run(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(*arguments(source, out))
    wait_for_records(out)
    family = psutil.Process(process.pid).children(recursive=True)
    assert family, "rendering happens in children"
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not alive


def test_a_second_run_on_a_folder_is_refused_at_once(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start("convert", "--engine", HANG, "--mode", "tiny", source, "-o", out)
    try:
        wait_for_records(out)
        second = docr(*arguments(source, out))
        assert second.returncode == 6, second.stderr
        assert str(process.pid) in second.stderr
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    assert docr(*arguments(source, out)).returncode == 0, "the lock went with its process"
    assert len(page_files(out)) == PAGES


@pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=pytest.mark.faults)])
def test_of_two_runs_at_once_one_works(rounds: int, tmp_path: Path) -> None:
    """Started at the same moment on a folder that is not there yet."""
    source = text_pdf(tmp_path / "a.pdf", pages=PAGES // 2)
    for number in range(rounds):
        out = tmp_path / f"out-{number}"
        pair = [start(*arguments(source, out)) for _ in range(2)]
        codes = sorted(process.wait(DEADLINE_S) for process in pair)
        assert codes == [0, 6], codes
        assert [line["state"] for line in manifest(out)] == ["ok"] * (PAGES // 2)


@pytest.mark.faults
def test_a_second_run_is_refused_within_two_seconds(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start("convert", "--engine", HANG, "--mode", "tiny", source, "-o", out)
    try:
        wait_for_records(out)
        for _ in range(5):
            begin = time.monotonic()
            assert docr(*arguments(source, out)).returncode == 6
            assert time.monotonic() - begin < 2
    finally:
        process.kill()
        process.wait()


def test_an_engine_that_hangs_can_be_interrupted(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start("convert", "--engine", HANG, "--mode", "tiny", source, "-o", out)
    wait_for_records(out)
    time.sleep(1)
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE_S) == 143
    assert time.monotonic() - begin < 15


def test_an_engine_that_kills_the_process_leaves_what_is_finished(
    source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    crashed = docr(
        *("convert", "--engine", "tests.fakes.engines:crash", "--mode", "tiny"),
        *(source, "-o", out),
    )
    assert crashed.returncode != 0
    again = docr(*arguments(source, out))
    assert again.returncode == 0, again.stderr
    assert len(page_files(out)) == PAGES


def test_a_page_that_kills_its_rank_twice_is_poison(tmp_path: Path) -> None:
    source, out = text_pdf(tmp_path / "a.pdf", pages=6), tmp_path / "out"
    done = docr(
        *("convert", "--engine", "tests.fakes.engines:crash", "--mode", "tiny"),
        *("--device", "cpu", "--gpus", "3", source, "-o", out),
    )
    assert done.returncode == 3, done.stderr
    states = {line["page"]: line["state"] for line in manifest(out)}
    assert states == {1: "ok", 2: "ok", 3: "failed:poison", 4: "ok", 5: "ok", 6: "ok"}
    assert done.stderr.count("died") >= 2


def docr_children() -> set[psutil.Process]:
    children = psutil.Process(os.getpid()).children(recursive=True)
    found = set()
    for each in children:
        with contextlib.suppress(psutil.Error):
            if "docr" in " ".join(each.cmdline()):
                found.add(each)
    return found


@pytest.fixture(autouse=True)
def no_child_left() -> Iterator[None]:
    """No test of this file leaves a process behind."""
    before = docr_children()
    yield
    deadline = time.monotonic() + 5
    while (left := docr_children() - before) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left
