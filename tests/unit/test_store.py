import errno
import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from docr.errors import IncompatibleError, OutputError, OutputLocked
from docr.output.build import failed_document
from docr.output.record import ManifestLine, PageRecord, RunInfo
from docr.output.store import Store
from tests.fakes import records

FINGERPRINT = records.fingerprint(records.source())


def open_store(out: Path, *, overwrite: bool = False, settings=records.SETTINGS) -> Store:
    return Store.open(out, settings=settings, overwrite=overwrite, run_id="run")


@pytest.fixture
def store(tmp_path: Path):
    with open_store(tmp_path / "out") as opened:
        yield opened


def inodes(out: Path) -> dict[str, tuple[int, int]]:
    return {
        path.relative_to(out).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in out.rglob("*")
        if ".docr" not in path.parts and path.is_file()
    }


def names(out: Path) -> set[str]:
    return set(inodes(out))


def write_all(store: Store, folder: str = "a.pdf") -> None:
    """Three pages: with figures, blank, failed; and their document."""
    record, figures = records.page(1, figure_count=2)
    store.write_page(folder, record, figures=figures)
    store.write_page(folder, records.blank(2))
    store.write_page(folder, records.failed(3))
    store.write_document(folder, records.document(store.finished_pages(folder, FINGERPRINT)))
    store.write_manifest()


# Pages


def test_a_page_is_there_with_figures_markdown_and_record(store):
    record, figures = records.page(1, figure_count=2)
    entry = store.write_page("sub/a.pdf", record, figures=figures)
    assert entry.record == "sub/a.pdf/page-0001.json"
    where = store.out / "sub/a.pdf"
    assert PageRecord.model_validate_json((store.out / entry.record).read_bytes()) == record
    assert (where / "page-0001.md").read_text(encoding="utf-8") == record.markdown
    for figure in figures:
        assert (where / figure.name).read_bytes() == figure.png
    assert not any((store.out / ".docr/tmp").iterdir())


def test_a_finished_page_is_recognised(store):
    record, figures = records.page(1, figure_count=2)
    entry = store.write_page("a.pdf", record, figures=figures)
    assert store.finished("a.pdf", 1, FINGERPRINT) == entry
    assert store.finished("a.pdf", 1, FINGERPRINT, source_sha256=record.source.sha256) == entry
    assert (entry.output_tokens, entry.vision_tokens) == (50, 256)
    assert store.attempts(entry) == 1


def test_pages_of_other_settings_content_or_number_are_not_trusted(store):
    store.write_page("a.pdf", records.page(1)[0])
    assert store.finished("a.pdf", 1, "0" * 64) is None
    assert store.finished("a.pdf", 1, FINGERPRINT, source_sha256="0" * 64) is None
    assert store.finished("a.pdf", 2, FINGERPRINT) is None
    where = store.out / "a.pdf"
    (where / "page-0002.json").write_bytes((where / "page-0001.json").read_bytes())
    assert store.finished("a.pdf", 2, FINGERPRINT) is None


@pytest.mark.parametrize("spoil", ["missing", "short"])
def test_a_page_without_its_figures_is_not_trusted(store, spoil):
    record, figures = records.page(1, figure_count=1)
    store.write_page("a.pdf", record, figures=figures)
    path = store.out / "a.pdf" / figures[0].name
    if spoil == "missing":
        path.unlink()
    else:
        path.write_bytes(figures[0].png[:-1])
    assert store.finished("a.pdf", 1, FINGERPRINT) is None


@pytest.mark.parametrize("content", [None, b"", b"# Gr", b"\xff"])
def test_lost_markdown_comes_back_from_the_record(store, content):
    record, _ = records.page(1)
    store.write_page("a.pdf", record)
    path = store.out / "a.pdf/page-0001.md"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert store.finished("a.pdf", 1, FINGERPRINT) is not None
    assert path.read_text(encoding="utf-8") == record.markdown


def test_a_failure_has_a_record_and_no_markdown(store):
    entry = store.write_page("a.pdf", records.failed(1))
    assert names(store.out) == {"a.pdf/page-0001.json"}
    assert (entry.state, entry.code) == ("failed:page-timeout", "page-timeout")
    assert store.finished("a.pdf", 1, FINGERPRINT) == entry


def test_a_failure_never_replaces_a_result(store):
    done = store.write_page("a.pdf", records.page(1)[0])
    assert store.write_page("a.pdf", records.failed(1)) == done
    assert store.write_page("a.pdf", records.blank(1, state="damaged")) == done
    assert store.finished("a.pdf", 1, FINGERPRINT) == done


def test_a_result_replaces_a_failure(store):
    store.write_page("a.pdf", records.failed(1))
    done = store.write_page("a.pdf", records.page(1)[0])
    assert store.finished("a.pdf", 1, FINGERPRINT) == done


def test_a_failure_replaces_a_page_of_older_content(store):
    store.write_page("a.pdf", records.page(1, info=records.source(content=b"old"))[0])
    store.write_page("a.pdf", records.failed(1))
    assert names(store.out) == {"a.pdf/page-0001.json"}
    assert store.finished("a.pdf", 1, FINGERPRINT).code == "page-timeout"


def test_finished_pages_are_listed_by_number(store):
    for number in (10000, 2, 1):
        store.write_page("a.pdf", records.blank(number))
    store.write_page("a.pdf", records.blank(3, info=records.source(content=b"old")))
    (store.out / "a.pdf/page-0004.json").write_text("{}")
    (store.out / "a.pdf/page-x.json").write_text("{}")
    assert [entry.page for entry in store.finished_pages("a.pdf", FINGERPRINT)] == [1, 2, 10000]
    assert store.finished_pages("other.pdf", FINGERPRINT) == []


def test_resume_looks_at_thousands_of_pages_a_second(store):
    record, _ = records.page(1)
    store.write_page("a.pdf", record)
    for _ in range(3):  # the best of three: other tests run beside this one
        start = time.process_time()
        for _ in range(500):
            store.finished("a.pdf", 1, FINGERPRINT)
        rate = 500 / (time.process_time() - start)
        if rate > 2000:
            return
    pytest.fail(f"{rate:.0f} pages a second")


# Documents


def test_a_document_joins_its_pages(store):
    write_all(store)
    where = store.out / "a.pdf"
    assert (where / "document.md").read_text(encoding="utf-8") == (
        "<!-- page 1 -->\n\n# Größe\n\nText\n\n"
        "<!-- page 2: blank -->\n\n"
        "<!-- page 3: failed:page-timeout -->\n"
    )
    found = store.document("a.pdf")
    assert (found["state"], found["complete"], found["page_count"]) == ("partial", True, 3)
    assert [page["record"] for page in found["pages"]] == [
        f"a.pdf/page-000{number}.json" for number in (1, 2, 3)
    ]


def test_writing_the_same_again_touches_nothing(store):
    write_all(store)
    before = inodes(store.out)
    entries = store.finished_pages("a.pdf", FINGERPRINT)
    store.write_document("a.pdf", records.document(entries))
    store.write_manifest()
    assert inodes(store.out) == before


def test_a_lost_document_comes_back(store):
    write_all(store)
    where = store.out / "a.pdf"
    text = (where / "document.md").read_bytes()
    (where / "document.md").write_bytes(text[:10])
    (where / "document.json").write_bytes(b"{")
    assert store.document("a.pdf") is None
    entries = store.finished_pages("a.pdf", FINGERPRINT)
    store.write_document("a.pdf", records.document(entries))
    assert (where / "document.md").read_bytes() == text
    assert store.document("a.pdf") is not None


def test_pages_and_figures_of_older_content_are_removed(store):
    old = records.source(content=b"old")
    for number in (1, 2):
        record, figures = records.page(number, info=old, figure_count=2)
        store.write_page("a.pdf", record, figures=figures)
    (store.out / "a.pdf/notes.txt").write_text("a person's")
    record, figures = records.page(1, figure_count=1)
    entry = store.write_page("a.pdf", record, figures=figures)
    store.write_document("a.pdf", records.document([entry]))
    assert names(store.out) == {
        "a.pdf/document.json",
        "a.pdf/document.md",
        "a.pdf/figures/page-0001-1.png",
        "a.pdf/notes.txt",
        "a.pdf/page-0001.json",
        "a.pdf/page-0001.md",
    }


def test_figures_come_and_go(store):
    old, new = records.source(content=b"old"), records.source()
    for info, figure_count in ((old, 1), (new, 0), (old, 1)):
        record, figures = records.page(1, info=info, figure_count=figure_count)
        entry = store.write_page("a.pdf", record, figures=figures)
        store.write_document("a.pdf", records.document([entry], info=info))
        assert ("a.pdf/figures/page-0001-1.png" in names(store.out)) == bool(figure_count)


def test_good_pages_that_a_stopped_run_does_not_list_stay(store):
    write_all(store)
    before = names(store.out)
    entries = store.finished_pages("a.pdf", FINGERPRINT)
    store.write_document("a.pdf", records.document(entries[1:2], page_count=3))
    assert names(store.out) == before


def failure(info=None, code="encrypted"):
    info = info or records.source()
    return failed_document(
        source=info,
        code=code,
        message="needs a password",
        fingerprint=records.fingerprint(info),
        run=RunInfo(id="run"),
    )


def test_a_failed_file_has_a_document_without_pages(store):
    store.write_document("a.pdf", failure())
    assert names(store.out) == {"a.pdf/document.json"}
    found = store.document("a.pdf")
    assert (found["state"], found["code"], found["pages"]) == ("failed:encrypted", "encrypted", [])


def test_a_file_that_cannot_be_read_again_keeps_its_results(store):
    write_all(store)
    before = inodes(store.out)
    unread = records.source().model_copy(update={"sha256": None, "bytes": None})
    store.write_document("a.pdf", failure(unread, "io-read"))
    store.write_document("a.pdf", failure(code="page-memory"))
    assert inodes(store.out) == before


def test_a_file_that_changed_and_failed_loses_its_old_pages(store):
    write_all(store)
    store.write_document("a.pdf", failure(records.source(content=b"new")))
    assert names(store.out) == {"a.pdf/document.json", "manifest.jsonl"}


def test_a_record_that_vanishes_meanwhile_is_an_error(store):
    entry = store.write_page("a.pdf", records.blank(1))
    (store.out / entry.record).unlink()
    with pytest.raises(OutputError, match=r"page-0001\.json was changed"):
        store.write_document("a.pdf", records.document([entry]))


# The manifest


def test_the_manifest_has_a_line_for_every_page_and_failed_file(store):
    write_all(store, "b/a.pdf")
    store.write_document("a~x.pdf", failure())
    store.write_document("B.pdf", failure())
    store.write_manifest()
    text = (store.out / "manifest.jsonl").read_text(encoding="utf-8")
    lines = [ManifestLine.model_validate_json(line) for line in text.splitlines()]
    assert [(line.record, line.page, line.state) for line in lines] == [
        ("B.pdf/document.json", None, "failed:encrypted"),
        ("a~x.pdf/document.json", None, "failed:encrypted"),
        ("b/a.pdf/page-0001.json", 1, "ok"),
        ("b/a.pdf/page-0002.json", 2, "blank"),
        ("b/a.pdf/page-0003.json", 3, "failed:page-timeout"),
    ]
    assert json.loads(text.splitlines()[-1]) == {
        "root": "/in",
        "path": "a.pdf",
        "page": 3,
        "state": "failed:page-timeout",
        "code": "page-timeout",
        "message": "gave up after 30 s",
        "engine": "mupdf 1.0",
        "record": "b/a.pdf/page-0003.json",
    }


def test_damaged_documents_are_not_in_the_manifest(store, caplog):
    write_all(store)
    path = store.out / "a.pdf/document.json"
    path.write_bytes(path.read_bytes()[:-2])
    store.write_manifest()
    assert (store.out / "manifest.jsonl").read_bytes() == b""
    assert "a.pdf/document.json is damaged" in caplog.text


# The folder


def test_other_settings_are_refused_with_the_difference(tmp_path):
    out = tmp_path / "out"
    open_store(out).close()
    other = records.SETTINGS | {"mode": "tiny", "query": "a\nb"}
    with pytest.raises(IncompatibleError) as caught:
        open_store(out, settings=other)
    message = str(caught.value)
    assert r'(mode: "base" -> "tiny"; query: null -> "a\nb")' in message
    assert "\n" not in message and "--overwrite" in message
    open_store(out, settings=other, overwrite=True).close()
    open_store(out, settings=other).close()


def test_an_unknown_format_is_left_alone(tmp_path):
    out = tmp_path / "out"
    open_store(out).close()
    path = out / ".docr/format"
    path.write_text('{"version": 99, "foreign": []}')
    with pytest.raises(IncompatibleError, match="format 99"):
        open_store(out, overwrite=True)
    assert json.loads(path.read_text()) == {"version": 99, "foreign": []}


def test_a_second_run_is_locked_out_at_once(tmp_path):
    out = tmp_path / "out"
    with open_store(out):
        before = time.monotonic()
        with pytest.raises(OutputLocked, match=rf"in use by another run \(pid {os.getpid()} on"):
            open_store(out)
        assert time.monotonic() - before < 5
    open_store(out).close()


def _hold(out: Path, ready) -> None:
    open_store(out)
    ready.set()
    time.sleep(60)


def test_a_killed_run_leaves_no_lock_and_no_temporary_files(tmp_path):
    out = tmp_path / "out"
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_hold, args=(out, ready))
    process.start()
    assert ready.wait(30)
    with pytest.raises(OutputLocked):
        open_store(out)
    process.kill()
    process.join()
    (out / ".docr/tmp/123-abc").write_bytes(b"half")
    open_store(out).close()
    assert not any((out / ".docr/tmp").iterdir())


def test_ranks_attach_without_the_lock(store):
    rank = Store.attach(store.out, run_id="run")
    entry = rank.write_page("a.pdf", records.page(1)[0])
    rank.event({"event": "page"})
    rank.close()
    assert store.finished("a.pdf", 1, FINGERPRINT) == entry
    with pytest.raises(OutputLocked):
        open_store(store.out)


def test_only_docrs_own_folders_can_be_attached_to(tmp_path):
    with pytest.raises(IncompatibleError, match="not an output folder"):
        Store.attach(tmp_path, run_id="run")


def test_what_was_there_before_docr_is_never_written(tmp_path):
    (tmp_path / "a.pdf").mkdir()
    (tmp_path / "a.pdf/page-0001.md").write_text("mine")
    for _ in range(2):  # a later run knows it, too
        with open_store(tmp_path) as store:
            with pytest.raises(OutputError, match=r"a\.pdf was there before docr"):
                store.write_page("a.pdf", records.page(1)[0])
            store.write_page("b.pdf", records.page(1)[0])
    assert (tmp_path / "a.pdf/page-0001.md").read_text() == "mine"


def test_a_foreign_manifest_is_never_written(tmp_path):
    (tmp_path / "manifest.jsonl").write_text("mine")
    with pytest.raises(IncompatibleError, match=r"holds a manifest\.jsonl"):
        open_store(tmp_path, overwrite=True)
    assert (tmp_path / "manifest.jsonl").read_text() == "mine"


def test_the_output_folder_may_be_a_link_but_nothing_below_it(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to("real")
    (tmp_path / "elsewhere").mkdir()
    with open_store(tmp_path / "out") as store:
        assert store.out == tmp_path / "real"
        store.write_page("b.pdf", records.page(1)[0])
        (store.out / "a.pdf").symlink_to(tmp_path / "elsewhere")
        (store.out / "b.pdf/figures").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(OutputError, match=r"a\.pdf is a symbolic link"):
            store.write_page("a.pdf", records.page(1)[0])
        record, figures = records.page(1, figure_count=1)
        with pytest.raises(OutputError, match="figures is a symbolic link"):
            store.write_page("b.pdf", record, figures=figures)
    assert not any((tmp_path / "elsewhere").iterdir())


def test_links_in_place_of_files_are_replaced_not_followed(store, tmp_path):
    (tmp_path / "victim").write_text("mine")
    (store.out / "a.pdf").mkdir()
    (store.out / "a.pdf/page-0001.md").symlink_to(tmp_path / "victim")
    store.write_page("a.pdf", records.page(1)[0])
    assert (tmp_path / "victim").read_text() == "mine"
    assert not (store.out / "a.pdf/page-0001.md").is_symlink()


def test_a_file_in_the_way_is_named(store):
    (store.out / "a.pdf").write_text("a file")
    with pytest.raises(OutputError, match=r"a\.pdf is in the way"):
        store.write_page("a.pdf", records.page(1)[0])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_an_output_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        open_store(tmp_path / "out")


def test_an_output_that_is_a_file_is_an_output_error(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        open_store(tmp_path / "out")


# The event log


def test_events_are_appended_with_their_time(store):
    store.event({"event": "page", "page": 1})
    store.event({"event": "page", "page": 2})
    store.close()
    lines = (store.out / ".docr/runs/run.jsonl").read_text().splitlines()
    assert [json.loads(line)["page"] for line in lines] == [1, 2]
    assert all("time" in json.loads(line) for line in lines)


def test_a_log_that_cannot_be_written_does_not_end_the_run(store):
    (store.out / ".docr/runs/run.jsonl").mkdir()
    store.event({"event": "page"})
    store.event({"event": "page"})


def test_a_full_disk_ends_the_run_even_in_the_log(store, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OutputError, match="No space left on device; free some space"):
        store.event({"event": "page"})


def test_roots_are_remembered(tmp_path):
    with open_store(tmp_path / "out") as store:
        assert store.known_roots == ()
        store.remember_roots([Path("/b"), Path("/a"), Path(os.fsdecode(b"/\xff"))])
    with open_store(tmp_path / "out") as store:
        assert store.known_roots == (Path("/a"), Path("/b"), Path(os.fsdecode(b"/\xff")))
