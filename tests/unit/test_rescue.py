"""When the second engine has its turn, and when a file that it opens counts."""

import sys
from pathlib import Path

import pytest

from docr.errors import InputError
from docr.pdf.cage import Cage, Outcome, RenderedPage, RenderSettings, RenderTask
from docr.types import PageFailure, SourceFile
from tests import pdfs
from tests.fakes.broken_mupdf import BrokenMupdf

if sys.platform == "win32":
    pytest.skip("rendering needs a POSIX system", allow_module_level=True)
pytest.importorskip("pypdfium2")


def cage_with(mupdf: BrokenMupdf, *, timeout: float = 20, max_pages: int = 20_000) -> Cage:
    settings = RenderSettings(dpi=36, page_timeout=timeout, max_pages=max_pages)
    return Cage(settings, transform="tests.fakes.transforms:faulty", transform_arg=mupdf)


def render(cage: Cage, source: SourceFile, *indexes: int, rescued: bool = False) -> list[Outcome]:
    cage.submit(RenderTask(source, indexes, rescued=rescued))
    found: list[Outcome] = []
    while cage.pending:
        found += cage.poll(5, limit=3)
    return found


def told(outcome: Outcome) -> str:
    """The engine of a page, or the code of a failure."""
    if isinstance(outcome, PageFailure):
        return outcome.code
    return outcome.image.rendered_by.split()[0]


@pytest.mark.parametrize("grief", ["refuse", "crash", "hang"])
def test_a_document_that_the_first_engine_cannot_open(tmp_path: Path, grief: str) -> None:
    source = pdfs.saved(tmp_path, "x.pdf", pdfs.tinted_pages(2))
    garbage = pdfs.saved(tmp_path, "g.pdf", pdfs.garbage())
    blank = pdfs.saved(tmp_path, "b.pdf", pdfs.blank_page())
    code = {"refuse": "unreadable", "crash": "page-crash", "hang": "page-timeout"}[grief]
    with cage_with(BrokenMupdf(grief), timeout=2 if grief == "hang" else 20) as cage:
        info = cage.inspect(source)
        assert (info.page_count, info.rendered_by.split()[0]) == (2, "pdfium")
        assert [told(page) for page in render(cage, source, 0, 1, rescued=True)] == ["pdfium"] * 2
        # Neither can; and white paper is no proof that the second has understood.
        for hopeless in (garbage, blank):
            with pytest.raises(InputError) as failure:
                cage.inspect(hopeless)
            assert failure.value.code == code


def test_a_page_that_the_first_engine_cannot_draw(tmp_path: Path) -> None:
    source = pdfs.saved(tmp_path, "x.pdf", pdfs.tinted_pages(6))
    griefs = {1: "crash", 2: "refuse", 4: "hang"}
    with cage_with(BrokenMupdf(pages=griefs), timeout=3) as cage:
        assert cage.inspect(source).rendered_by.startswith("mupdf")
        found = render(cage, source, *range(6))
    # A page that took its time has had it; an error is an answer.
    assert [told(page) for page in found] == [
        *("mupdf", "pdfium", "page-error", "mupdf", "page-timeout", "mupdf")
    ]
    page = found[1]
    assert isinstance(page, RenderedPage)
    assert page.image.pixels[0, 0, 0] == 1


def test_a_page_that_both_engines_fail_on(tmp_path: Path) -> None:
    source = pdfs.saved(tmp_path, "x.pdf", pdfs.tinted_pages(3))
    with cage_with(BrokenMupdf(pages={1: "crash"}, faults={1: "raise"})) as cage:
        found = render(cage, source, 0, 1, 2)
    assert [told(page) for page in found] == ["mupdf", "page-crash", "mupdf"]


def test_three_pages_in_a_row_end_a_rescued_file(tmp_path: Path) -> None:
    source = pdfs.saved(tmp_path, "x.pdf", pdfs.tinted_pages(20))
    faults = dict.fromkeys((1, 2, 4, 6, 7, 8), "raise")
    with cage_with(BrokenMupdf("refuse", faults=faults)) as cage:
        found = render(cage, source, *range(10), rescued=True)
        # What comes of the same file later is not tried.
        later = render(cage, source, 10, 11, rescued=True)
    bad = "page-error"
    assert [told(page) for page in found] == [
        *("pdfium", bad, bad, "pdfium", bad, "pdfium", bad, bad, bad, "skipped")
    ]
    assert [told(page) for page in later] == ["skipped", "skipped"]


def test_pages_are_counted_as_far_as_they_are_there(tmp_path: Path) -> None:
    page = pdfs.Page(pdfs.words("here"))
    source = pdfs.saved(tmp_path, "x.pdf", pdfs.pdf(page, page, announced=1_000_000))
    with cage_with(BrokenMupdf()) as cage:  # refuses such a count by itself
        info = cage.inspect(source)
        assert (info.page_count, info.rendered_by.split()[0]) == (5, "pdfium")
        found = render(cage, source, *range(5), rescued=True)
    assert [told(page) for page in found] == ["pdfium", "pdfium", *["page-missing"] * 3]


@pytest.mark.parametrize("opening", [None, "refuse"])
def test_a_file_of_too_many_pages(tmp_path: Path, opening: str | None) -> None:
    source = pdfs.saved(tmp_path, "x.pdf", pdfs.text_pages(6))
    with cage_with(BrokenMupdf(opening), max_pages=5) as cage:
        with pytest.raises(InputError) as failure:
            cage.inspect(source)
        assert failure.value.code == "too-many-pages"
        assert "--max-pages-per-file" in failure.value.message
    with cage_with(BrokenMupdf(opening), max_pages=6) as cage:
        assert cage.inspect(source).page_count == 6
