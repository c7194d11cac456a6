"""What a long-lived, unattended process meets: signals, stops, closed streams, odd surroundings."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.e2e.cli import (
    ECHO,
    SLOW_ECHO,
    docr,
    environment,
    fresh_home,
    manifest,
    page_files,
    page_records,
    start,
    text_pdf,
    wait_for_records,
)

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.name != "posix", reason="POSIX signals, streams and modes"),
]

PAGES = 16
STOP_S = [1.5, pytest.param(60, marks=pytest.mark.faults)]


def arguments(source: Path, out: Path, *, engine: str = ECHO) -> list[str | Path]:
    return ["convert", "--engine", engine, "--mode", "tiny", source, "-o", out]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_pdf(tmp_path_factory.mktemp("life") / "a.pdf", pages=PAGES)


def shell(
    command: str, *words: str | Path, **options: object
) -> "subprocess.CompletedProcess[str]":
    """Run a shell command in which "$@" is `python -m docr ...`."""
    return subprocess.run(
        ["/bin/sh", "-c", command, "sh", sys.executable, "-m", "docr", *map(str, words)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
        check=False,
        **options,  # type: ignore[call-overload]
    )


# Signals: SIGINT and SIGTERM are in test_kill.py


def test_a_terminal_that_closes_is_a_clean_stop(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(*arguments(source, out, engine=SLOW_ECHO), stderr=subprocess.PIPE)
    wait_for_records(out)
    process.send_signal(signal.SIGHUP)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert b"SIGHUP: stopping" in said and b"Traceback" not in said
    assert 0 < len(manifest(out)) < PAGES


def test_a_reader_that_has_enough_ends_the_run_quietly(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    slow = arguments(source, out, engine=SLOW_ECHO)
    done = shell('"$@" | head -n 1', *slow, "--jsonl", "-q")
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
    assert 0 < len(page_records(out)) < PAGES
    assert len(manifest(out)) == len(page_records(out)), "what was finished is summed up"
    assert docr(*slow).returncode == 0


def test_nobody_who_reads_stderr_is_no_reason_to_stop(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shell('"$@" 2>&1 | true', *arguments(source, out), "-v")
    assert len(manifest(out)) == PAGES


# Processes that are stopped for a while, as by a debugger or a frozen container


def stopped(process: psutil.Process, seconds: float) -> None:
    process.suspend()
    time.sleep(seconds)
    process.resume()


def renderer(root: int) -> psutil.Process:
    """A rendering child at work: the youngest of the fork server's."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for server in psutil.Process(root).children():
            children = server.children()
            if children:
                return children[-1]
        time.sleep(0.005)
    raise AssertionError("nobody renders")


def begun(source: Path, out: Path, *, standing_still: float) -> subprocess.Popen[bytes]:
    """A run at work, whose pages may take less time than something will stand still."""
    limit = "30" if standing_still > 30 else "0.75"
    process = start(*arguments(source, out, engine=SLOW_ECHO), "--page-timeout", limit)
    wait_for_records(out)
    return process


@pytest.mark.parametrize("seconds", STOP_S)
def test_a_renderer_that_stands_still_costs_its_page_and_no_other(
    seconds: float, source: Path, tmp_path: Path
) -> None:
    """It stands still longer than a page may take, and wakes up when it is given up."""
    out = tmp_path / "out"
    process = begun(source, out, standing_still=seconds)
    child = renderer(process.pid)
    child.suspend()
    time.sleep(seconds)
    if child.is_running():
        child.resume()
    assert process.wait(120) == 3
    states = [line["state"] for line in manifest(out)]
    assert states.count("failed:page-timeout") == 1
    assert states.count("ok") == PAGES - 1


@pytest.mark.parametrize("seconds", STOP_S)
def test_a_run_that_stands_still_blames_nobody(
    seconds: float, source: Path, tmp_path: Path
) -> None:
    """Deadlines pass while the main process cannot hear; what its children say still counts."""
    out = tmp_path / "out"
    process = begun(source, out, standing_still=seconds)
    stopped(psutil.Process(process.pid), seconds)
    assert process.wait(120) == 0
    assert [line["state"] for line in manifest(out)] == ["ok"] * PAGES


@pytest.mark.parametrize("seconds", STOP_S)
def test_a_fork_server_that_stands_still_only_delays(seconds: float, tmp_path: Path) -> None:
    folder, out = tmp_path / "pdfs", tmp_path / "out"
    folder.mkdir()
    for number in range(80):  # more than have a child already
        text_pdf(folder / f"{number}.pdf", pages=1, text=f"document {number}")
    process = start(*arguments(folder, out, engine=SLOW_ECHO))
    wait_for_records(out)
    (server,) = psutil.Process(process.pid).children()
    stopped(server, seconds)
    assert process.wait(180) == 0
    assert [line["state"] for line in manifest(out)] == ["ok"] * 80


# Surroundings


CLOSED = ["<&- 2>&-", "<&- >&- 2>&-"]


@pytest.mark.parametrize("closed", CLOSED)
def test_closed_streams_leave_no_trace_in_the_output(
    closed: str, source: Path, tmp_path: Path
) -> None:
    """A file opened under the number of a closed stream would receive what is printed there."""
    out = tmp_path / "out"
    done = shell(f'"$@" {closed}', *arguments(source, out), "-v")
    assert done.returncode == 0, done.stderr
    assert len(manifest(out)) == PAGES
    for path in (out / ".docr").iterdir():
        if path.is_file():
            assert path.read_text(encoding="utf-8").startswith(("{", "[")), path


def test_closed_stdin_is_an_empty_document(tmp_path: Path) -> None:
    done = shell('"$@" <&-', *arguments(Path("-"), tmp_path / "out"))
    assert done.returncode == 4, done.stderr
    assert "empty-file" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("named", [True, False])
def test_no_home(named: bool, source: Path, tmp_path: Path) -> None:
    """Without HOME, and then without an entry in the list of users that would tell one."""
    nameless = ["unshare", "--user", "--map-user=54321"]
    if not named and subprocess.run([*nameless, "true"], capture_output=True).returncode:
        pytest.skip("this system has no user namespaces")
    env = {name: value for name, value in fresh_home(tmp_path).items() if name != "HOME"}
    out = tmp_path / "out"
    done = subprocess.run(
        [*([] if named else nameless), sys.executable, "-m", "docr", *arguments(source, out)],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert len(manifest(out)) == PAGES


@pytest.mark.parametrize(
    "locale",
    [
        {"LANG": "C"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},  # ASCII, and no way out
    ],
)
def test_any_locale(locale: dict[str, str], tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    text_pdf(folder / "Größe 漢.pdf", pages=1)
    (folder / "kaputt-ü.pdf").write_bytes(b"no document")
    drop = ("LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "PYTHONUTF8")
    env = {name: value for name, value in environment().items() if name not in drop}
    done = docr(*arguments(folder, out), env=env | locale)
    assert done.returncode == 3, done.stderr
    assert "kaputt-" in done.stderr and "Traceback" not in done.stderr
    assert sorted(line["state"] for line in manifest(out)) == ["failed:not-a-pdf", "ok"]


def test_where_files_may_not_be_large_no_page_is_blamed(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = shell('ulimit -f 1000; exec "$@"', *arguments(source, out))
    assert done.returncode == 5, done.stderr
    assert "(ulimit -f)" in done.stderr.splitlines()[-1]
    assert not page_files(out)


@pytest.mark.parametrize("mask", [0o000, 0o277])
def test_any_umask(mask: int, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = shell(f'umask {mask:03o}; exec "$@"', *arguments(source, out))
    assert done.returncode == 0, done.stderr
    assert len(manifest(out)) == PAGES
    for path in page_files(out):
        assert path.stat().st_mode & 0o777 == 0o666 & ~mask, path
