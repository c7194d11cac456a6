"""`docr convert` through the real command line, with an engine that echoes a hash of the page."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from tests import pdfs
from tests.e2e.cli import ECHO, docr, inodes, manifest, page_image, page_records, text_pdf, tree

pytestmark = pytest.mark.e2e


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    """A small collection: documents in folders, an image, and a file that is no document."""
    root = tmp_path / "pdfs"
    (root / "deep/er").mkdir(parents=True)
    text_pdf(root / "a.pdf", pages=3)
    text_pdf(root / "deep/B.PDF", pages=1)
    text_pdf(root / "deep/er/no-suffix", pages=2)
    (root / "blank.pdf").write_bytes(pdfs.blank_page())
    page_image(root / "scan.png")
    (root / "notes.txt").write_text("not a document")
    return root


def convert(*args: str | Path) -> "object":
    return docr("convert", "--engine", ECHO, "--mode", "tiny", *args)


def test_every_page_of_a_collection_has_a_record(collection: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = convert(collection, "-o", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    records = page_records(out)
    assert set(records) == {
        "a.pdf/page-0001.json",
        "a.pdf/page-0002.json",
        "a.pdf/page-0003.json",
        "blank.pdf/page-0001.json",
        "deep/B.PDF/page-0001.json",
        "deep/er/no-suffix/page-0001.json",
        "deep/er/no-suffix/page-0002.json",
        "scan.png/page-0001.json",
    }
    states = {name: record["state"] for name, record in records.items()}
    assert states.pop("blank.pdf/page-0001.json") == "blank"
    assert set(states.values()) == {"ok"}
    lines = manifest(out)
    assert {line["record"] for line in lines} == set(records)
    assert all(line["root"] == str(collection) for line in lines)
    for name, record in records.items():
        markdown = (out / name).with_suffix(".md")
        if record["state"] == "ok":
            assert markdown.read_text(encoding="utf-8") == record["markdown"]
    assert (out / "a.pdf/document.json").exists()
    assert "page 3" in (out / "a.pdf/document.md").read_text(encoding="utf-8")
    assert "1 neither PDF nor image" in done.stderr
    assert "notes.txt" not in done.stderr  # counted, not listed
    (log,) = (out / ".docr/runs").glob("*.jsonl")
    events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    assert sum(event["event"] == "PageFinished" for event in events) == len(records)


def test_a_second_run_changes_nothing(collection: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = convert(collection, "-o", out)
    before = inodes(out)
    second = convert(collection, "-o", out)
    assert (first.returncode, second.returncode) == (0, 0)
    assert inodes(out) == before


def test_lost_markdown_comes_back_without_the_model(collection: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(collection, "-o", out)
    before = tree(out)
    (out / "a.pdf/document.md").unlink()
    (out / "a.pdf/page-0002.md").write_text("torn")
    (out / "manifest.jsonl").unlink()
    again = convert(collection, "-o", out)
    assert again.returncode == 0
    assert "loaded in" not in again.stderr
    assert tree(out) == before


def test_same_input_same_tree(collection: Path, tmp_path: Path) -> None:
    convert(collection, "-o", tmp_path / "one")
    convert(collection, "-o", tmp_path / "two", "--batch-size", "1")
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_failures_are_recorded_and_exit_3(collection: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (collection / "empty.pdf").touch()
    (collection / "text.pdf").write_text("plain text")
    (collection / "locked.pdf").write_bytes(pdfs.encrypted("secret"))
    done = convert(collection, "-o", out)
    assert done.returncode == 3, done.stderr
    failed = {line["path"]: line for line in manifest(out) if line["page"] is None}
    assert {path: line["code"] for path, line in failed.items()} == {
        "empty.pdf": "empty-file",
        "text.pdf": "not-a-pdf",
        "locked.pdf": "encrypted",
    }
    assert all(line["state"] == f"failed:{line['code']}" for line in failed.values())
    for path, line in failed.items():
        said = [row for row in done.stderr.splitlines() if path in row and "ERROR" in row]
        assert len(said) == 1 and line["code"] in said[0], (path, done.stderr)
    assert len([line for line in manifest(out) if line["state"] == "ok"]) == 7

    again = convert(collection, "-o", out)
    assert again.returncode == 3
    unlocked = convert(collection, "-o", out, "--password", "secret")
    assert unlocked.returncode == 3
    assert "failed:encrypted" not in {line["state"] for line in manifest(out)}


def test_status_tells_what_the_run_told_and_feeds_a_retry(collection: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    broken = collection / "deep/broken.pdf"
    broken.write_bytes(b"%PDF-1.7 nothing else")
    assert convert(collection, "-o", out).returncode == 3
    status = docr("status", out)
    assert status.returncode == 3
    assert "broken.pdf" in status.stdout
    failed = docr("status", out, "--failed", "-0").stdout
    assert failed == f"{broken}\0"

    text_pdf(broken, pages=1)  # somebody repaired it
    retry = docr(
        *("convert", "--engine", ECHO, "--mode", "tiny", "-o", out),
        *("--retry-failed", "--files-from", "-", "-0"),
        stdin=os.fsencode(failed),
    )
    assert retry.returncode == 0, retry.stderr
    assert "deep/broken.pdf/page-0001.json" in page_records(out)  # its place is the walk's
    assert docr("status", out).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["nowhere"], 4),
        (["empty-folder"], 4),
        (["a.pdf", "--mode", "huge"], 2),
        (["a.pdf", "--pages", "0"], 2),
        (["a.pdf", "--task", "locate"], 2),
        (["a.pdf", "-o", "a.pdf"], 5),
        (["a.pdf", "--config", "bad.toml"], 8),
    ],
)
def test_exit_codes(arguments: list[str], code: int, tmp_path: Path) -> None:
    (tmp_path / "empty-folder").mkdir()
    (tmp_path / "bad.toml").write_text("[convert]\nmood = 'tiny'\n")
    text_pdf(tmp_path / "a.pdf", pages=1)
    done = docr("convert", "--engine", ECHO, *arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


def test_no_weights_is_exit_7_with_the_command_that_gets_them(tmp_path: Path) -> None:
    text_pdf(tmp_path / "a.pdf", pages=1)
    done = docr("convert", tmp_path / "a.pdf", "--model", "deepseek-ocr", "-o", tmp_path / "out")
    assert done.returncode == 7
    assert "docr models pull deepseek-ocr" in done.stderr
    assert len(done.stderr.splitlines()) <= 2


def test_other_settings_are_refused_before_any_work(tmp_path: Path) -> None:
    text_pdf(tmp_path / "a.pdf", pages=1)
    out = tmp_path / "out"
    assert convert(tmp_path / "a.pdf", "-o", out).returncode == 0
    before = inodes(out)
    other = docr("convert", "--engine", ECHO, "--mode", "base", tmp_path / "a.pdf", "-o", out)
    assert other.returncode == 8
    assert "tiny" in other.stderr and "base" in other.stderr
    assert inodes(out) == before
    redone = docr(
        *("convert", "--engine", ECHO, "--mode", "base", "--overwrite"),
        *(tmp_path / "a.pdf", "-o", out),
    )
    assert redone.returncode == 0, redone.stderr
    assert page_records(out)["a.pdf/page-0001.json"]["mode"] == "base"


def test_a_changed_file_is_redone_and_its_old_pages_go(tmp_path: Path) -> None:
    source, out = tmp_path / "a.pdf", tmp_path / "out"
    text_pdf(source, pages=3)
    convert(source, "-o", out)
    old = page_records(out)
    text_pdf(source, pages=2, text="something else")
    assert convert(source, "-o", out).returncode == 0
    new = page_records(out)
    assert set(new) == {"a.pdf/page-0001.json", "a.pdf/page-0002.json"}
    assert all(new[name]["markdown"] != old[name]["markdown"] for name in new)
    assert not (out / "a.pdf/page-0003.md").exists()
    assert len(manifest(out)) == 2


def test_pages_can_be_added_later(tmp_path: Path) -> None:
    source, out = tmp_path / "a.pdf", tmp_path / "out"
    text_pdf(source, pages=5)
    assert convert(source, "-o", out, "--pages", "2-3").returncode == 0
    before = inodes(out)
    assert convert(source, "-o", out, "--pages", "1,3,5-").returncode == 0
    assert sorted(line["page"] for line in manifest(out)) == [1, 2, 3, 5]
    for name in ("a.pdf/page-0002.json", "a.pdf/page-0003.json"):
        assert inodes(out)[name] == before[name]


def test_streams(tmp_path: Path) -> None:
    source = tmp_path / "a.pdf"
    text_pdf(source, pages=2)
    piped = docr(
        *("convert", "--engine", ECHO, "--mode", "tiny", "-", "-o", "-"), stdin=source.read_bytes()
    )
    assert piped.returncode == 0, piped.stderr
    named = docr("convert", "--engine", ECHO, "--mode", "tiny", source, "-o", "-")
    # the echo holds no path: the same pixels give the same text
    assert piped.stdout == named.stdout
    assert piped.stdout.strip()

    out = tmp_path / "out"
    stored = docr(
        *("convert", "--engine", ECHO, "--mode", "tiny", "-", "-o", out, "--json"),
        stdin=source.read_bytes(),
    )
    assert stored.returncode == 0, stored.stderr
    summary = json.loads(stored.stdout)
    assert summary["pages"]["ok"] == 2
    assert (out / "stdin.pdf/page-0002.md").exists()

    events = convert(source, "-o", tmp_path / "out2", "--jsonl").stdout.splitlines()
    pages = [json.loads(line) for line in events]
    assert sorted(page["page"] for page in pages) == [1, 2]


def test_dry_run_writes_nothing(collection: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = convert(collection, "-o", out, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert not out.exists()
    assert "8" in done.stdout  # pages


def test_fail_fast_and_max_failures(tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / f"{number}.pdf").write_bytes(b"%PDF-1.7 broken")
    text_pdf(tmp_path / "z.pdf", pages=1)
    fast = convert(tmp_path, "-o", tmp_path / "fast", "--fail-fast")
    assert fast.returncode in (3, 4)
    assert len(manifest(tmp_path / "fast")) == 1
    convert(tmp_path, "-o", tmp_path / "three", "--max-failures", "3")
    assert len(manifest(tmp_path / "three")) == 3


def test_pages_that_the_model_cannot_hold_are_failures_not_losses(tmp_path: Path) -> None:
    source, out = tmp_path / "a.pdf", tmp_path / "out"
    text_pdf(source, pages=6)
    done = docr(
        *("convert", "--engine", "tests.fakes.engines:out_of_memory", "--mode", "tiny"),
        *(source, "-o", out),
    )
    assert done.returncode == 3
    states = [line["state"] for line in manifest(out)]
    assert len(states) == 6 and "failed:out-of-memory" in states and "ok" in states
    # a failure of the machine: tried again by itself
    assert convert(source, "-o", out).returncode == 0, "retried with an engine that copes"


def test_endless_output_is_truncated_and_counts_as_done(tmp_path: Path) -> None:
    source, out = tmp_path / "a.pdf", tmp_path / "out"
    text_pdf(source, pages=2)
    babble = ["convert", "--engine", "tests.fakes.engines:babble", "--mode", "tiny"]
    done = docr(*babble, source, "-o", out)
    assert done.returncode == 0
    assert {line["state"] for line in manifest(out)} == {"truncated"}
    assert "2 truncated" in done.stderr
    assert docr(*babble, source, "-o", out, "--strict").returncode == 3


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_an_output_that_cannot_be_written_is_exit_5(tmp_path: Path) -> None:
    text_pdf(tmp_path / "a.pdf", pages=1)
    (tmp_path / "file").touch()
    assert convert(tmp_path / "a.pdf", "-o", tmp_path / "file/out").returncode == 5


@pytest.mark.skipif(sys.platform != "linux", reason="needs a small file system")
def test_a_full_disk_is_exit_5_and_resumable(tmp_path: Path) -> None:
    pytest.importorskip("ctypes")
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small tmpfs needs root")
    import subprocess

    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], check=False
    )
    if mounted.returncode:
        pytest.skip("this system does not let us mount a tmpfs")
    try:
        source = tmp_path / "a.pdf"
        text_pdf(source, pages=60)
        done = convert(source, "-o", disk / "out")
        assert done.returncode == 5, done.stderr
        assert "No space left" in done.stderr
        assert "Traceback" not in done.stderr
        kept = set(page_records(disk / "out"))
        assert kept
        subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
        before = {name: inodes(disk / "out")[name] for name in kept}
        assert convert(source, "-o", disk / "out").returncode == 0
        after = inodes(disk / "out")
        assert {name: after[name] for name in kept} == before
        assert len(page_records(disk / "out")) == 60
    finally:
        subprocess.run(["umount", str(disk)], check=True)
