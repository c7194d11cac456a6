"""Engines that crash, hang, lose their device, fill memory and babble: the run goes on."""

import time
from pathlib import Path

import psutil
import pytest

from tests.e2e.cli import docr, manifest, page_records, start, text_pdf

pytestmark = pytest.mark.e2e

PAGES = 5


def convert(engine: str, *args: str | Path) -> "object":
    return docr("convert", "--engine", f"tests.fakes.engines:{engine}", "--mode", "tiny", *args)


def states(out: Path) -> dict[int, str]:
    return {line["page"]: line["state"] for line in manifest(out)}


@pytest.mark.parametrize(
    ("engine", "state", "said"),
    [
        pytest.param("crash", "failed:poison", "status -9", marks=pytest.mark.slow),
        ("hang", "failed:poison", "no sign of life for 6 s"),
        ("raises", "failed:device", "fake device fell off the bus"),
        ("bug", "failed:poison", r"RuntimeError: a line\x0a\x1b[31mand another"),
        pytest.param("hoard", "failed:poison", "MemoryError", marks=pytest.mark.slow),
        ("crowded", "ok", "fake memory is full"),
    ],
)
def test_what_one_page_does_to_its_rank_costs_no_other_page(
    engine: str, state: str, said: str, tmp_path: Path
) -> None:
    source, out = text_pdf(tmp_path / "a.pdf", pages=PAGES), tmp_path / "out"
    done = convert(engine, "--gpus", "1", "--stall-timeout", "6", source, "-o", out)
    assert done.returncode == (0 if state == "ok" else 3), done.stderr
    assert states(out) == dict.fromkeys(range(1, PAGES + 1), "ok") | {3: state}
    assert said in done.stderr and "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if "ERROR" in line and "p.3" in line]
    assert len(lines) == (state != "ok"), done.stderr
    if state == "ok":
        assert page_records(out)["a.pdf/page-0003.json"]["run"]["attempts"] == 2
    if engine == "raises":  # a device's fault: tried again by the next run
        assert convert("echo", source, "-o", out).returncode == 0
    if engine == "crash":  # the page's, as far as anybody can tell: kept
        assert convert("echo", source, "-o", out).returncode == 3
        assert convert("echo", "--retry-failed", source, "-o", out).returncode == 0


def test_a_rank_that_cannot_load_leaves_the_work_to_the_others(tmp_path: Path) -> None:
    # A rank loads its model once it has work, and takes no more than two chunks before.
    files = [text_pdf(tmp_path / f"{number}.pdf", pages=1) for number in range(PAGES)]
    out = tmp_path / "out"
    done = convert("first_fails_to_load", "--gpus", "2", *files, "-o", out)
    assert done.returncode == 0, done.stderr
    assert "rank 0 died: fake memory is too small" in done.stderr
    assert [line["state"] for line in manifest(out)] == ["ok"] * PAGES


def test_no_memory_for_the_model_is_exit_7(tmp_path: Path) -> None:
    source, out = text_pdf(tmp_path / "a.pdf"), tmp_path / "out"
    done = convert("fails_to_load", "--gpus", "1", source, "-o", out)
    assert done.returncode == 7, done.stderr
    assert "fake memory is too small" in done.stderr.splitlines()[-1]
    assert manifest(out) == []


@pytest.mark.slow
def test_a_machine_that_fails_over_every_page_ends_the_run(tmp_path: Path) -> None:
    for number in range(8):
        text_pdf(tmp_path / f"{number}.pdf", pages=3)
    out = tmp_path / "out"
    done = convert("crash", "--gpus", "1", "--pages", "3", tmp_path, "-o", out)
    assert done.returncode == 7, done.stderr
    assert "finished no page between" in done.stderr.splitlines()[-1]
    assert {line["state"] for line in manifest(out)} == {"failed:poison"}


def test_ranks_do_not_outlive_a_killed_run(tmp_path: Path) -> None:
    source, out = text_pdf(tmp_path / "a.pdf", pages=PAGES), tmp_path / "out"
    engine = "tests.fakes.engines:hang"
    run = start("convert", "--engine", engine, "--mode", "tiny", "--gpus", "2", source, "-o", out)
    deadline = time.monotonic() + 60
    while not (out / "a.pdf/page-0002.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    family = psutil.Process(run.pid).children(recursive=True)
    assert sum("docr.distributed.rank" in each.cmdline() for each in family) == 2
    run.kill()
    run.wait()
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not alive


def test_repetition_is_recorded_as_such(tmp_path: Path) -> None:
    source, out = text_pdf(tmp_path / "a.pdf", pages=2), tmp_path / "out"
    done = convert("repeats", "--strict", source, "-o", out)
    assert done.returncode == 3, done.stderr
    assert set(states(out).values()) == {"repetition"}
