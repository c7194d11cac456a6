from pathlib import Path

import pytest

from docr.errors import IncompatibleError
from docr.output.build import failed_document
from docr.output.record import RunInfo, SourceInfo
from docr.output.status import failed_sources, read_status
from docr.output.store import Store
from docr.types import SourceFile
from tests.fakes import records


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """One good document, one with failures, one that failed as a whole."""
    with Store.open(tmp_path, settings=records.SETTINGS, overwrite=False, run_id="run") as store:
        good = records.source("good.pdf")
        pages = [
            records.page(1, info=good)[0],
            records.page(2, info=good, mean_logprob=-0.7)[0],
            records.page(3, info=good, finish_reason="length", mean_logprob=-0.01)[0],
        ]
        entries = [store.write_page("good.pdf", page) for page in pages]
        store.write_document("good.pdf", records.document(entries, info=good))

        bad = records.source("bad.pdf")
        pages = [
            records.failed(1, info=bad),
            records.page(2, info=bad, finish_reason="repetition", mean_logprob=float("nan"))[0],
            records.blank(3, info=bad, state="damaged"),
        ]
        entries = [store.write_page("bad.pdf", page) for page in pages]
        store.write_document("bad.pdf", records.document(entries, info=bad, page_count=9))

        relative = "gone\udcff.pdf"
        locked = SourceInfo.of(
            SourceFile(Path("/in") / relative, Path("/in"), relative), sha256="0" * 64, size=1
        )
        store.write_document(
            "locked.pdf",
            failed_document(
                source=locked,
                code="encrypted",
                message="needs a password",
                fingerprint="0" * 64,
                run=RunInfo(id="run"),
            ),
        )
    return tmp_path


def test_the_tally_counts_the_records(out):
    status = read_status(out)
    assert status.tally.documents == 3
    assert status.tally.failed_documents == 1
    assert status.tally.pages == {
        "ok": 2,
        "truncated": 1,
        "failed:page-timeout": 1,
        "repetition": 1,
        "damaged": 1,
    }
    assert (status.tally.output_tokens, status.tally.vision_tokens) == (200, 1024)
    assert status.tally.failures == 3
    assert status.tally.exit_code() == 3
    assert status.incomplete == 1


def test_failures_are_listed_with_their_records(out):
    found = [(item.record, item.page, item.state) for item in read_status(out).failures]
    assert found == [
        ("bad.pdf/page-0001.json", 1, "failed:page-timeout"),
        ("bad.pdf/page-0003.json", 3, "damaged"),
        ("locked.pdf/document.json", None, "failed:encrypted"),
    ]


def test_the_most_doubtful_pages_come_first(out):
    found = [(item.path, item.page, item.state) for item in read_status(out).doubtful]
    assert found == [
        ("good.pdf", 3, "truncated"),
        ("bad.pdf", 2, "repetition"),
        ("good.pdf", 2, "ok"),
        ("good.pdf", 1, "ok"),
    ]


def test_failed_sources_are_exact_paths(out):
    assert list(failed_sources(out)) == [b"/in/bad.pdf", b"/in/gone\xff.pdf"]


def test_a_folder_that_is_not_docrs_has_no_status(tmp_path):
    with pytest.raises(IncompatibleError):
        read_status(tmp_path)
    with pytest.raises(IncompatibleError):
        list(failed_sources(tmp_path))


def test_an_empty_folder_of_docr_is_empty(tmp_path):
    Store.open(tmp_path, settings={}, overwrite=False, run_id="run").close()
    status = read_status(tmp_path)
    assert (status.tally.page_count, status.failures, status.doubtful) == (0, (), ())
