"""The second PDF engine: the same geometry as the first, and its turn when that one gives up."""

from pathlib import Path

import numpy as np
import pytest

from docr.errors import InputError
from docr.pdf.cage import Cage, RenderedPage, RenderSettings, RenderTask
from docr.pdf.pdfium import PdfiumDocument
from docr.pdf.render import PdfDocument, is_blank
from docr.types import PageImage, PageRef, SourceFile
from tests import pdfs
from tests.pdfs import Page, rectangle, words

SETTINGS = RenderSettings()
BAD = Path(__file__).parents[2] / "../shared/corpus/bad"
REF = PageRef(Path(), 0)


def red_centre(image: PageImage) -> tuple[float, float]:
    """Where the red rectangle is, in PDF points."""
    red = (image.pixels[:, :, 0] > 200) & (image.pixels[:, :, 1] < 50)
    y, x = np.argwhere(red).mean(axis=0) + 0.5
    assert image.px_to_pt is not None
    a, b, c, d, e, f = image.px_to_pt
    return a * x + c * y + e, b * x + d * y + f


@pytest.mark.parametrize(
    ("rotate", "crop_box"),
    [(0, None), (90, None), (180, (100, 100, 400, 700)), (270, (50, 80, 500, 700))],
)
def test_both_engines_see_the_same_page(rotate: int, crop_box: tuple[int, ...] | None) -> None:
    content = words("Hello there", x=160, y=400) + rectangle(150, 300, 200, 330)
    data = pdfs.pdf(Page(content, rotate=rotate, crop_box=crop_box))
    first, second = PdfDocument(data, SETTINGS), PdfiumDocument(data, SETTINGS)
    ours, theirs = first.render(REF), second.render(REF)
    assert ours.pixels.shape == theirs.pixels.shape
    assert second.size_px(0) == first.size_px(0)
    assert (ours.rotation, ours.page_pt, ours.has_text) == (
        theirs.rotation,
        theirs.page_pt,
        theirs.has_text,
    )
    assert theirs.rendered_by.startswith("pdfium ")
    for image in (ours, theirs):
        assert red_centre(image) == pytest.approx((175, 315), abs=0.5)


def test_blank_and_empty() -> None:
    assert is_blank(PdfiumDocument(pdfs.blank_page(), SETTINGS).render(REF))
    assert not is_blank(PdfiumDocument(pdfs.full_stop(), SETTINGS).render(REF))


@pytest.mark.parametrize(
    ("data", "code"), [(pdfs.garbage(), "unreadable"), (pdfs.encrypted(), "encrypted")]
)
def test_refusals(data: bytes, code: str) -> None:
    with pytest.raises(InputError) as refused:
        PdfiumDocument(data, SETTINGS)
    assert refused.value.code == code


@pytest.mark.skipif(not BAD.is_dir(), reason="needs ../shared/corpus beside the checkout")
def test_it_opens_what_the_first_engine_cannot() -> None:
    """Files in which MuPDF finds no page; some of them PDFium can read."""
    made_by = set()
    with Cage(RenderSettings(page_timeout=20), transform="tests.fakes.transforms:views") as cage:
        for path in sorted(BAD.glob("*.pdf")):
            if path.stat().st_size > 200_000 or "gen_" in path.name:
                continue
            source = SourceFile(path, path.parent, path.name)
            try:
                info = cage.inspect(source)
            except InputError:
                continue
            if not info.rendered_by.startswith("pdfium"):
                continue
            cage.submit(RenderTask(source, (0,)))
            (page,) = cage.poll(60, limit=1)
            if isinstance(page, RenderedPage):
                made_by.add(page.image.rendered_by)
    assert made_by, "none of the files was rendered by the second engine"
