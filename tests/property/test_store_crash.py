"""Whatever moment a run dies at, the next one ends with the tree of a run that did not die.

The store's system calls are counted; the run is ended before the n-th, for every n there is.
"""

import errno
import json
import os
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from docr.errors import OutputError
from docr.output.build import failed_document
from docr.output.record import RunInfo
from docr.output.store import Store
from tests.fakes import records
from tests.fakes.disk import before_call, dying, failing

KILLED = 42

DOCUMENTS = {"a.pdf": 3, "sub/b.pdf": 1}  # folder and source, pages
UNREADABLE = records.source("c.pdf")


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """Flushing matters to power cuts alone; here it would only cost minutes."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def run(out: Path) -> None:
    """What a job does with a store: skip what is finished, write the rest, sum up."""
    with Store.open(out, settings=records.SETTINGS, overwrite=False, run_id="run") as store:
        for folder, page_count in DOCUMENTS.items():
            info = records.source(folder)
            fingerprint = records.fingerprint(info)
            for number in range(1, page_count + 1):
                if store.finished(folder, number, fingerprint) is not None:
                    continue
                if number == 3:
                    store.write_page(folder, records.failed(3, info=info))
                    continue
                record, figures = records.page(number, info=info, figure_count=2 - number)
                store.write_page(folder, record, figures=figures)
            entries = store.finished_pages(folder, fingerprint)
            store.write_document(folder, records.document(entries, info=info))
        store.event({"event": "failed"})
        store.write_document(
            "c.pdf",
            failed_document(
                source=UNREADABLE,
                code="encrypted",
                message="needs a password",
                fingerprint=records.fingerprint(UNREADABLE),
                run=RunInfo(id="run"),
            ),
        )
        store.write_manifest()


def run_over_older_content(out: Path) -> None:
    """Fill the folder with pages of another content first: then there is much to replace."""
    with Store.open(out, settings=records.SETTINGS, overwrite=False, run_id="old") as store:
        old = records.source("a.pdf", content=b"old")
        for number in (1, 2, 3, 4):
            record, figures = records.page(number, info=old, figure_count=2)
            store.write_page("a.pdf", record, figures=figures)
        entries = store.finished_pages("a.pdf", records.fingerprint(old))
        store.write_document("a.pdf", records.document(entries, info=old))
        store.write_manifest()


def tree(out: Path) -> dict[str, object]:
    """All files but docr's own, records without what may differ between two runs."""
    files: dict[str, object] = {}
    for path in sorted(out.rglob("*")):
        if ".docr" in path.parts or path.is_dir():
            continue
        content: object = path.read_bytes()
        if path.suffix == ".json":
            record = json.loads(path.read_bytes())
            del record["run"], record["checksum"]
            for page in record.get("pages", ()):
                del page["checksum"]
            content = record
        files[path.relative_to(out).as_posix()] = content
    return files


def killed_run(out: Path, number: int) -> bool:
    """Run in a child that ends before its n-th call, halfway through if that is a write.

    Returns:
        Whether it came so far.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the child calls no other thread
        child = os.fork()
    if child == 0:
        try:
            with before_call(number, dying(lambda: os._exit(KILLED))):
                run(out)
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, KILLED), code
    return code == KILLED


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the child is a fork")
@pytest.mark.parametrize("prepare", [lambda out: None, run_over_older_content])
def test_a_killed_run_is_resumed_to_the_same_tree(tmp_path, prepare):
    prepare(tmp_path / "whole")
    run(tmp_path / "whole")
    expected = tree(tmp_path / "whole")
    assert len(expected) == 15
    number = 1
    while True:
        out = tmp_path / str(number)
        prepare(out)
        if not killed_run(out, number):
            break
        run(out)
        assert tree(out) == expected, f"killed before call {number}"
        assert not any((out / ".docr/tmp").iterdir())
        number += 1
    assert number > 50
    assert tree(out) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc what a descriptor stands for")
@pytest.mark.parametrize("prepare", [lambda out: None, run_over_older_content])
def test_what_a_power_cut_may_lose_is_never_vouched_for(tmp_path, prepare):
    """A file's content is on the disk before its name, what a record vouches for before the record.

    Renames may reach the disk in any order until their folder is flushed.
    """
    out = tmp_path.resolve() / "out"
    prepare(out)
    flushed: set[Path] = set()  # files, with all their content
    waiting: dict[Path, set[str]] = defaultdict(set)  # renames that may be lost, by folder

    def look(name: str, args: tuple[object, ...]) -> None:
        if name not in ("write", "fsync", "replace", "mkdir"):
            return
        descriptor = isinstance(args[0], int)
        path = Path(f"/proc/self/fd/{args[0]}").readlink() if descriptor else Path(str(args[0]))
        match name:
            case "write":
                flushed.discard(path)
            case "fsync":
                flushed.add(path)
                waiting.pop(path, None)
            case "mkdir" if not path.exists():
                waiting[path.parent].add(path.name)
            case "replace":
                assert path in flushed, f"{args[1]} was renamed before it was flushed"
                target = Path(str(args[1]))
                lost = {each for each in waiting if each.is_relative_to(target.parent)}
                pending = {name for each in lost for name in waiting[each]} - {"tmp", "runs"}
                if target.name == "document.json":
                    assert not pending, f"{target} vouches for {pending}"
                elif target.suffix == ".json" and target.name.startswith("page-"):
                    # its Markdown is compared with it by the next run; figures are not
                    assert pending <= {target.with_suffix(".md").name}, (target, pending)
                elif target.name == "manifest.jsonl":
                    assert not pending, pending
                waiting[target.parent].add(target.name)

    with before_call(1, look, below=out.parent) as count:
        run(out)
    assert count[0] > 50
    assert not any(waiting.values()), waiting


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_a_disk_that_fails_is_an_output_error_and_can_be_resumed(tmp_path, code):
    run(tmp_path / "whole")
    expected = tree(tmp_path / "whole")

    number = 1
    while True:
        out = tmp_path / str(number)
        with before_call(number, failing(code)) as count:
            try:
                run(out)
                break
            except OutputError as error:
                assert os.strerror(code) in str(error)
        assert count[0] >= number
        run(out)
        assert tree(out) == expected, f"failed from call {number} on"
        number += 1 if code == errno.ENOSPC else 7
    assert number > 50


@pytest.fixture
def page(tmp_path: Path) -> Iterator[tuple[Store, Path, str]]:
    info = records.source("a.pdf")
    with Store.open(tmp_path, settings={}, overwrite=False, run_id="run") as store:
        entry = store.write_page("a.pdf", records.page(1, info=info)[0])
        yield store, store.out / entry.record, records.fingerprint(info)


def test_a_record_cut_anywhere_is_not_trusted(page):
    store, path, fingerprint = page
    for length in reversed(range(path.stat().st_size)):
        os.truncate(path, length)
        assert store.finished("a.pdf", 1, fingerprint) is None, length


def flipped(path: Path) -> Iterator[int]:
    """Flip each bit of a file in turn, for as long as the caller looks at it."""
    whole = path.read_bytes()
    with path.open("r+b", buffering=0) as file:
        for bit in range(8 * len(whole)):
            byte = whole[bit // 8]
            os.pwrite(file.fileno(), bytes([byte ^ (1 << bit % 8)]), bit // 8)
            yield bit
            os.pwrite(file.fileno(), bytes([byte]), bit // 8)


def test_a_record_with_any_bit_flipped_is_not_trusted(page):
    store, path, fingerprint = page
    for bit in flipped(path):
        assert store.finished("a.pdf", 1, fingerprint) is None, bit
    assert store.finished("a.pdf", 1, fingerprint) is not None


def test_a_record_with_anything_after_it_is_not_trusted(page):
    store, path, fingerprint = page
    whole = path.read_bytes()
    for tail in (b"\n", b" ", b"\0" * 512, whole):
        path.write_bytes(whole + tail)
        assert store.finished("a.pdf", 1, fingerprint) is None, tail


def test_a_document_with_any_bit_flipped_is_not_trusted(page):
    store, _, _ = page
    info = records.source("a.pdf")
    entries = store.finished_pages("a.pdf", records.fingerprint(info))
    path = store.out / store.write_document("a.pdf", records.document(entries, info=info))
    for bit in flipped(path):
        assert store.document("a.pdf") is None, bit
    assert store.document("a.pdf") is not None
