"""Whatever moment a run dies at, the next one ends with the tree of a run that did not die.

The store's system calls are counted; the run is ended before the n-th, for every n there is.
"""

import errno
import json
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from docr.errors import OutputError
from docr.output.build import failed_document
from docr.output.record import RunInfo
from docr.output.store import Store
from tests.fakes import records

CALLS = ("write", "fsync", "replace", "mkdir", "unlink")
"""What changes the disk. Each may be the last that a run gets to make."""

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


@contextmanager
def before_call(number: int, act: Callable[[str, tuple[object, ...]], None]) -> Iterator[list[int]]:
    """Do something before the n-th call that changes the disk, counted from 1, and each later."""
    count = [0]
    originals = {name: getattr(os, name) for name in CALLS}

    def wrapped(name: str) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            count[0] += 1
            if count[0] >= number:
                act(name, args)
            return originals[name](*args, **options)

        return call

    for name in CALLS:
        setattr(os, name, wrapped(name))
    try:
        yield count
    finally:
        for name, original in originals.items():
            setattr(os, name, original)


def killed_run(out: Path, number: int) -> bool:
    """Run in a child that ends before its n-th call, halfway through if that is a write.

    Returns:
        Whether it came so far.
    """
    write = os.write

    def die(name: str, args: tuple[object, ...]) -> None:
        if name == "write":
            descriptor, data = args
            write(descriptor, data[: len(data) // 2])
        os._exit(KILLED)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the child calls no other thread
        child = os.fork()
    if child == 0:
        try:
            with before_call(number, die):
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


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_a_disk_that_fails_is_an_output_error_and_can_be_resumed(tmp_path, code):
    run(tmp_path / "whole")
    expected = tree(tmp_path / "whole")

    def fail(name: str, args: tuple[object, ...]) -> None:
        raise OSError(code, os.strerror(code))

    number = 1
    while True:
        out = tmp_path / str(number)
        with before_call(number, fail) as count:
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
