"""Whatever the disk does to a run: finished pages stay, one line says so, the next run goes on."""

import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.e2e.cli import (
    ECHO,
    docr,
    inodes,
    page_records,
    run_module,
    start,
    text_pdf,
    tree,
    wait_for_records,
)

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(sys.platform != "linux", reason="asks /proc what a descriptor stands for"),
]

FAKE_DISK = "tests.fakes.disk"
FAILURES = {
    "ENOSPC": "No space left on device",
    "EDQUOT": "Disk quota exceeded",
    "EIO": "Input/output error",
    "EROFS": "Read-only file system",
}
SWEEPING = 2  # last calls of a run, that it can do without; how many there are varies by one
STEP_KB = 4


def arguments(source: Path, out: Path) -> list[str | Path]:
    return ["convert", "-q", "--engine", ECHO, "--mode", "tiny", source, "-o", out]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two documents, three pages, and a file that fails as a whole."""
    folder = tmp_path_factory.mktemp("disk") / "pdfs"
    folder.mkdir()
    text_pdf(folder / "a.pdf", pages=2)
    text_pdf(folder / "b.pdf", pages=1, text="other")
    (folder / "c.pdf").write_bytes(b"no document")
    return folder


@pytest.fixture(scope="module")
def undisturbed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """The tree of an uninterrupted run, and how many calls changed the disk for it."""
    out = tmp_path_factory.mktemp("disk") / "out"
    done = run_module(FAKE_DISK, "SIGKILL", 0, *arguments(source, out))
    assert done.returncode == 3, done.stderr
    return out, int(done.stderr.splitlines()[-1])


def said(lines: list[str]) -> list[str]:
    """What was said of the disk's failure itself."""
    asides = ("c.pdf: not-a-pdf", "warning: no event log")
    return [line for line in lines if not any(aside in line for aside in asides)]


def kept_pages(out: Path) -> dict[str, tuple[int, int]]:
    """Where the records are that a run left, and in which state: they must stay as they are."""
    records = page_records(out) if out.exists() else {}
    return {name: inodes(out)[name] for name in records}


def resume(source: Path, out: Path, expected: Path, *, before: object) -> None:
    """The same command again, on a disk that works, leaves the tree of an undisturbed run."""
    kept = kept_pages(out)
    done = docr(*arguments(source, out))
    assert done.returncode == 3, (before, done.stderr)
    assert tree(out) == tree(expected), before
    assert {name: inodes(out)[name] for name in kept} == kept, before
    assert not any((out / ".docr/tmp").iterdir()), before


def calls(total: int, first: int | None) -> Sequence[int]:
    """Call numbers: every fourth from one on, or one in the middle."""
    return [total // 2] if first is None else range(first, total + 1, 4)


def quarters(*firsts: int) -> list[object]:
    """What of a loop over all calls is run by one test; all of it is for `make faults`."""
    return [pytest.param(first, marks=pytest.mark.faults) for first in firsts]


@pytest.mark.parametrize("first", [None, *quarters(1, 2, 3, 4)])
def test_killed_before_any_call_that_changes_the_disk(
    first: int | None, source: Path, undisturbed: tuple[Path, int], tmp_path: Path
) -> None:
    expected, total = undisturbed
    assert total > 50
    for number in calls(total, first):
        out = tmp_path / str(number)
        killed = run_module(FAKE_DISK, "SIGKILL", number, *arguments(source, out))
        finished = killed.returncode == 3 and number > total - SWEEPING
        assert finished or killed.returncode == -9, (number, killed.stderr)
        resume(source, out, expected, before=number)
        shutil.rmtree(out)


@pytest.mark.parametrize("first", [None, *quarters(1, 2, 3, 4)])
def test_a_disk_that_fails_from_any_call_on(
    first: int | None, source: Path, undisturbed: tuple[Path, int], tmp_path: Path
) -> None:
    """Full at every call; in between also over its quota, broken and read-only."""
    expected, total = undisturbed
    fates = [(number, "ENOSPC") for number in calls(total, first)]
    if first is not None:
        others = itertools.cycle(["EIO", "EDQUOT", "EROFS"])
        fates += [(number, next(others)) for number, _ in fates]
    for number, failure in fates:
        out = tmp_path / str(number)
        done = run_module(FAKE_DISK, failure, number, *arguments(source, out))
        lines = said(done.stderr.splitlines()[:-1])
        if done.returncode == 3 and number > total - SWEEPING:
            assert not lines, (number, lines)
        else:
            assert done.returncode == 5, (number, done.stderr)
            assert len(lines) == 1 and FAILURES[failure] in lines[0], (number, lines)
        resume(source, out, expected, before=number)
        shutil.rmtree(out)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own; its size is set by `resize`."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small tmpfs needs root and Linux")
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={STEP_KB}k", "tmpfs", str(disk)]
    if subprocess.run(command, check=False).returncode:
        pytest.skip("this system does not let us mount a tmpfs")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def resize(disk: Path, kilobytes: int) -> None:
    options = f"remount,size={kilobytes}k"
    subprocess.run(["mount", "-o", options, str(disk)], check=True)


@pytest.mark.faults
def test_a_disk_that_is_full_at_every_write(
    small_disk: Path, source: Path, undisturbed: tuple[Path, int]
) -> None:
    """The disk grows page by page of memory until a run fits; each is resumed with room enough."""
    expected, _ = undisturbed
    size, full = STEP_KB, 0
    while True:
        out = small_disk / "out"
        resize(small_disk, size)
        done = docr(*arguments(source, out))
        if done.returncode == 3:
            break
        lines = said(done.stderr.splitlines())
        assert done.returncode == 5, (size, done.stderr)
        assert len(lines) == 1 and FAILURES["ENOSPC"] in lines[0], (size, lines)
        full += 1
        resize(small_disk, 16_000)
        resume(source, out, expected, before=size)
        shutil.rmtree(out)
        size += STEP_KB
    assert tree(out) == tree(expected)
    assert full > 15


def test_spoiled_records_are_done_again(
    source: Path, undisturbed: tuple[Path, int], tmp_path: Path
) -> None:
    """Flipped, of another page, cut short, zeroed: nothing of it is trusted."""
    expected, _ = undisturbed
    out = tmp_path / "out"
    shutil.copytree(expected, out)
    first, second = out / "a.pdf/page-0001.json", out / "a.pdf/page-0002.json"
    other, document = out / "b.pdf/page-0001.json", out / "b.pdf/document.json"
    whole = bytearray(first.read_bytes())
    whole[len(whole) // 2] ^= 1
    first.write_bytes(whole)
    second.write_bytes(other.read_bytes())
    os.truncate(other, 100)
    document.write_bytes(bytes(document.stat().st_size))
    done = docr(*arguments(source, out))
    assert done.returncode == 3, done.stderr
    assert tree(out) == tree(expected)


def test_an_output_folder_that_is_removed_ends_the_run(tmp_path: Path) -> None:
    source, out = text_pdf(tmp_path / "a.pdf", pages=60), tmp_path / "out"
    slow = ["convert", "-q", "--engine", "tests.fakes.engines:slow_echo", "--mode", "tiny"]
    process = start(*slow, source, "-o", out, stderr=subprocess.PIPE)
    wait_for_records(out, 3)
    out.rename(tmp_path / "moved")
    begin = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 5
    assert time.monotonic() - begin < 10
    (line,) = said.decode().splitlines()
    assert "cannot write" in line and "moved or removed" in line
    assert not out.exists()
    assert len(page_records(tmp_path / "moved")) >= 3
