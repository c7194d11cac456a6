"""PDF pages as pixels by PDFium, for files that MuPDF cannot open. Runs in a caged child only.

Needs the extra `pdfium`. PDFium is hungrier than MuPDF and gives up where that repairs, so it is
asked second; `rendered_by` says in each record which engine made the page.
"""

import ctypes
import mmap
from pathlib import Path

import numpy as np
import pypdfium2
import pypdfium2.raw as pdfium_c

from docr.errors import InputError
from docr.pdf.render import is_blank
from docr.pdf.settings import (
    MAX_LOST_IN_A_ROW,
    MAX_TEXT,
    POINTS_PER_INCH,
    SECOND_ENGINE,
    RenderSettings,
    choose_scale,
)
from docr.pdf.wire import clean_line
from docr.types import Affine, PageImage, PageRef


class PdfiumDocument:
    """An open PDF file.

    Raises:
        InputError: "encrypted", "no-pages", or "unreadable".
    """

    rendered_by = f"{SECOND_ENGINE} {pypdfium2.PDFIUM_INFO.build}"
    warnings: tuple[str, ...] = ()

    def __init__(self, data: mmap.mmap | bytes, settings: RenderSettings) -> None:
        self._settings = settings
        try:
            # It reads no mmap; files that come here are damaged, and rarely large.
            self._document = pypdfium2.PdfDocument(bytes(data), password=settings.password)
        except pypdfium2.PdfiumError as error:
            if getattr(error, "err_code", None) == pdfium_c.FPDF_ERR_PASSWORD:
                raise InputError("encrypted", "the document is encrypted") from error
            raise InputError("unreadable", clean_line(str(error))) from error
        self.page_count = len(self._document)
        if self.page_count == 0:
            raise InputError("no-pages", "the document has no pages")
        self._document.init_forms()  # or fields that were filled in stay empty

    def verify(self) -> None:
        """Count the pages that are there, and see that something is on one of them.

        PDFium believes a count that no page stands behind, however large, and draws white where
        it understands nothing.

        Raises:
            InputError: "no-pages": none can be had, or all are blank.
        """
        self.page_count = self._end()
        lost = 0
        for index in range(self.page_count):
            try:
                if not is_blank(self.render(PageRef(Path(), index))):
                    return
                lost = 0
            except (pypdfium2.PdfiumError, InputError):
                lost += 1
                if lost == MAX_LOST_IN_A_ROW:
                    break
        raise InputError("no-pages", "no page with anything on it could be drawn")

    def _end(self) -> int:
        """Where the pages end: behind the last, or behind so many in a row that do not exist.

        Those are reported as missing. One over the limit is as far as it counts.
        """
        announced = min(self.page_count, self._settings.max_pages + 1)
        lost = 0
        for index in range(announced):
            lost = 0 if self._exists(index) else lost + 1
            if lost == MAX_LOST_IN_A_ROW:
                return index + 1
        return announced

    def _exists(self, index: int) -> bool:
        try:
            self._document.get_page_size(index)
        except pypdfium2.PdfiumError:
            return False
        return True

    def size_px(self, index: int) -> tuple[int, int]:
        """(width, height) that a page would be rendered in; zeros where that would fail."""
        try:
            width, height = self._document.get_page_size(index)
            scale = choose_scale((width, height), self._settings)
        except (pypdfium2.PdfiumError, InputError):
            return 0, 0
        return round(width * scale), round(height * scale)

    def render(self, ref: PageRef) -> PageImage:
        """Render a page with its annotations, as a reader shows it: rotated and cropped.

        Raises:
            InputError: the page has no sensible size, or cannot be loaded.
            PdfiumError: it cannot be drawn.
        """
        if ref.index >= self.page_count:
            raise InputError("input-changed", f"the file now has {self.page_count} pages")
        try:
            page = self._document[ref.index]
        except pypdfium2.PdfiumError as error:
            what = "the page is announced but not in the file, or damaged beyond repair"
            raise InputError("page-missing", what) from error
        page_pt = page.get_size()
        scale = choose_scale(page_pt, self._settings)
        bitmap = page.render(scale=scale, rev_byteorder=True, prefer_bgrx=False)
        pixels = np.ascontiguousarray(bitmap.to_numpy()[:, :, :3])
        text = page.get_textpage().get_text_range()
        return PageImage(
            ref=ref,
            pixels=pixels,
            dpi=scale * POINTS_PER_INCH,
            page_pt=page_pt,
            rotation=page.get_rotation() % 360,
            px_to_pt=_px_to_pt(page, pixels.shape[1], pixels.shape[0]),
            text=text.strip()[:MAX_TEXT],
            rendered_by=self.rendered_by,
        )


def _px_to_pt(page: pypdfium2.PdfPage, width: int, height: int) -> Affine:
    """PDFium's own way back from pixels, read off three corners."""

    def at(x: int, y: int) -> tuple[float, float]:
        page_x, page_y = ctypes.c_double(), ctypes.c_double()
        pdfium_c.FPDF_DeviceToPage(page, 0, 0, width, height, 0, x, y, page_x, page_y)
        return page_x.value, page_y.value

    e, f = at(0, 0)
    right, below = at(width, 0), at(0, height)
    return (
        (right[0] - e) / width,
        (right[1] - f) / width,
        (below[0] - e) / height,
        (below[1] - f) / height,
        e,
        f,
    )
