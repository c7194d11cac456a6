"""Small PDFs, broken at random, through the whole command line: a record each, and nothing else.

Hostile bytes are opened in the cage's children alone; here they are only written to files.
"""

import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import psutil
import pytest

from tests import pdfs
from tests.e2e.cli import ECHO, environment, manifest, run_module

pytestmark = pytest.mark.e2e

FAULTS_MUTANTS = int(os.environ.get("FAULTS_MUTANTS", "10000"))
BATCH = 1000
PAGE_LIMIT_S = 5
TRACED = 100


@cache
def originals() -> tuple[bytes, ...]:
    """Good files of all kinds, none of them larger than a few kilobytes but the scan."""
    return (
        pdfs.text_pages(3),
        pdfs.tinted_pages(4),
        pdfs.pdf(*(pdfs.Page(pdfs.words(f"turned {n}"), rotate=n) for n in (0, 90, 180, 270))),
        pdfs.pdf(pdfs.Page(pdfs.words("small", x=9, y=9, size=9), media_box=(0, 0, 99, 99))),
        pdfs.pdf(pdfs.Page(pdfs.words("cut"), crop_box=(50, 600, 500, 800), user_unit=2.0)),
        pdfs.annotated(),
        pdfs.broken_xref(3),
        pdfs.encrypted("", pages=2),
        pdfs.full_stop(),
        pdfs.image_only(),
        pdfs.invisible_text(),
        pdfs.light_grey_word(),
        pdfs.blank_page(),
    )


def mutant(chance: random.Random) -> bytes:
    """One of the files with flipped bits, without a chunk, with a chunk twice, or cut off."""
    data = bytearray(chance.choice(originals()))
    start = chance.randrange(len(data))
    end = start + chance.randint(1, max(1, len(data) // 4))
    match chance.choice(("flip", "delete", "duplicate", "truncate")):
        case "flip":
            for _ in range(chance.randint(1, 32)):
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        case "delete":
            del data[start:end]
        case "duplicate":
            data[end:end] = data[start:end]
        case "truncate":
            del data[start:]
    return bytes(data)


def mutants(folder: Path, count: int, *, seed: int) -> None:
    chance = random.Random(seed)
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:05d}.pdf").write_bytes(mutant(chance))


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and modification time of all that is in a folder, but for what the fake engine needs."""
    return {
        path.relative_to(folder).as_posix(): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith("docr-fake-")
    }


def processes_of(temporary: Path) -> Iterator[psutil.Process]:
    """Processes that run with this folder for temporary files, orphans among them."""
    for process in psutil.process_iter():
        try:
            if process.environ().get("TMPDIR") == str(temporary):
                yield process
        except psutil.Error:
            continue


SHORT = (-1, 50)  # seed, count
LONG = [(at, min(BATCH, FAULTS_MUTANTS - at)) for at in range(0, FAULTS_MUTANTS, BATCH)]


@pytest.mark.parametrize(
    ("seed", "count"), [SHORT, *(pytest.param(*each, marks=pytest.mark.faults) for each in LONG)]
)
def test_mutants_cost_themselves_and_nothing_else(seed: int, count: int, tmp_path: Path) -> None:
    mutants(tmp_path / "pdfs", count, seed=seed)
    for name in ("home", "tmp", "here"):
        (tmp_path / name).mkdir()
    before = contents(tmp_path)
    home, temporary, out = tmp_path / "home", tmp_path / "tmp", tmp_path / "out"
    done = run_module(
        "docr",
        *("convert", "-q", "--engine", ECHO, "--mode", "tiny", "--pages", "1-3"),
        *("--page-timeout", str(PAGE_LIMIT_S), tmp_path / "pdfs", "-o", out),
        cwd=tmp_path / "here",
        env=environment(HOME=str(home), TMPDIR=str(temporary)),
        timeout=120 + 2 * count,  # beyond it, something hangs
    )
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    lines = manifest(out)
    assert {line["path"] for line in lines} == {f"{number:05d}.pdf" for number in range(count)}
    failed = sum(line["code"] is not None or line["state"] == "damaged" for line in lines)
    assert len(done.stderr.splitlines()) == failed, "one line each"
    files = Counter(line["state"] for line in lines if line["page"] is None)
    pages = Counter(line["state"] for line in lines if line["page"] is not None)
    opened = {line["path"] for line in lines if line["page"] is not None}
    print(f"seed {seed}: {count} mutants, {len(opened)} opened; ", end="")
    print(f"files {dict(files.most_common())}; pages {dict(pages.most_common())}")
    assert len(opened) >= count / 2
    after = contents(tmp_path)
    meant = "out/", "home/.cache/docr/native/"  # SECURITY.md
    assert {name: at for name, at in after.items() if not name.startswith(meant)} == before
    assert not list(processes_of(temporary))


@pytest.mark.faults
@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("strace"), reason="needs strace")
def test_no_process_touches_the_network(tmp_path: Path) -> None:
    mutants(tmp_path / "pdfs", TRACED, seed=TRACED)
    trace = tmp_path / "trace"
    words = ["strace", "-f", "-qq", "-e", "trace=network", "-o", str(trace)]
    words += [sys.executable, "-m", "docr", "convert", "-q", "--engine", ECHO, "--mode", "tiny"]
    words += ["--pages", "1-3", str(tmp_path / "pdfs"), "-o", str(tmp_path / "out")]
    done = subprocess.run(words, env=environment(), timeout=600, capture_output=True, check=False)
    if b"PTRACE" in done.stderr:
        pytest.skip("this system does not let us trace")
    assert done.returncode == 3, done.stderr
    families = Counter(
        word.strip("(),[]{}").split("=")[-1]
        for line in trace.read_text(encoding="utf-8", errors="replace").splitlines()
        for word in line.replace("(", " ").replace("{", " ").split()
        if "AF_" in word
    )
    print(f"{TRACED} mutants: {dict(families)}")
    assert families and set(families) == {"AF_UNIX"}
