"""What scripts/check_corpus.py takes for equal."""

import pytest

from scripts.check_corpus import Found, Page, judge


def pages(*states: str, engine: str = "mupdf 1.28") -> Found:
    return Found(None, tuple(Page(i, state, engine) for i, state in enumerate(states, start=1)))


def failed(code: str) -> Found:
    return Found(code, ())


LATE = "failed:page-timeout"


@pytest.mark.parametrize(
    ("expected", "count", "found", "equal"),
    [
        ("OK", 2, pages("ok", "blank"), True),
        ("OK", 2, pages("ok"), False),  # a page is gone
        ("OK", 2, pages("ok", "damaged"), False),
        ("OK-with-warnings", 2, pages("ok", "damaged"), True),
        ("OK-with-warnings", 2, pages("ok", LATE), False),
        ("FILE_ERROR:no-pages", 0, failed("no-pages"), True),
        ("FILE_ERROR:encrypted", None, failed("unreadable"), False),
        ("FILE_ERROR:cannot-open", None, pages("ok", LATE, engine="pdfium 8149"), True),
        ("FILE_ERROR:cannot-open", None, pages("ok"), False),
        ("PAGE_ERROR", 1, pages("failed:page-error"), True),
        ("PAGE_ERROR", 1, pages("ok"), False),
        ("PAGE_ERROR", 1, failed("unreadable"), False),
        ("PAGE_ERROR:timeout,other-pages-kept", 2, pages(LATE, "ok"), True),
        ("PAGE_ERROR:timeout,other-pages-kept", 2, pages("failed:too-large", "ok"), True),
        ("PAGE_ERROR:timeout,other-pages-kept", 2, pages("failed:page-error", "ok"), False),
        ("PARTIAL:damaged-page-flagged", 1, pages("damaged"), True),
        ("PARTIAL:damaged-page-flagged", 1, pages("blank"), False),
        ("PARTIAL:page2-blank-or-error,6-pages-kept", 3, pages("ok", "blank", "ok"), True),
        ("PARTIAL:page2-error,6-pages-kept", 3, pages("ok", "blank", "ok"), False),
        ("PARTIAL:page2-error,6-pages-kept", 3, pages("ok", LATE, LATE), False),
        ("OK-or-PAGE_ERROR:bounded-time-and-memory", 1, pages(LATE), True),
        ("OK-or-PAGE_ERROR:bounded-time-and-memory", 1, failed("unreadable"), False),
    ],
)
def test_verdicts(expected: str, count: int | None, found: Found, equal: bool) -> None:
    assert judge(expected, count, found).equal is equal
