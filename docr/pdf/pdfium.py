"""PDF pages as pixels by PDFium, for files that MuPDF cannot open. Runs in a caged child only.

Needs the extra `pdfium`. PDFium is hungrier than MuPDF and gives up where that repairs, so it is
asked second; `rendered_by` says in each record which engine made the page.
"""

import ctypes
import mmap

import numpy as np
import pypdfium2
import pypdfium2.raw as pdfium_c

from docr.errors import InputError
from docr.pdf.settings import MAX_TEXT, POINTS_PER_INCH, RenderSettings, choose_scale
from docr.pdf.wire import clean_line
from docr.types import Affine, PageImage, PageRef


class PdfiumDocument:
    """An open PDF file.

    Raises:
        InputError: "encrypted", "no-pages", or "unreadable".
    """

    rendered_by = f"pdfium {pypdfium2.PDFIUM_INFO.build}"
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
        try:
            self._document[self.page_count - 1]
        except pypdfium2.PdfiumError as error:
            # PDFium believes a count that no page stands behind, however large.
            what = f"announces {self.page_count} pages and does not have the last"
            raise InputError("unreadable", f"the document {what}") from error
        self._document.init_forms()  # or fields that were filled in stay empty

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
            InputError: the page has no sensible size, or is not in the document.
            PdfiumError: the page cannot be loaded.
        """
        if ref.index >= self.page_count:
            raise InputError("input-changed", f"the file now has {self.page_count} pages")
        page = self._document[ref.index]
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
