"""Pages of PDFs as pixels, by MuPDF. Runs in a caged child only: documents are hostile.

MuPDF hangs, crashes and allocates without bound on some files, holds the interpreter's lock
meanwhile, and is not thread-safe; so every call of it is here, and cage.py kills from outside.
"""

import math
import mmap
import re
from contextlib import suppress

import numpy as np

from docr.errors import FailureCode, InputError
from docr.pdf.mupdf import pymupdf
from docr.pdf.settings import MAX_TEXT, POINTS_PER_INCH, RenderSettings, choose_scale
from docr.pdf.wire import clean_line, clean_lines
from docr.types import U8, Affine, PageImage, PageRef

BLANK_LEVELS = 4  # of 255: scanners' and renderers' noise around the colour of the paper

_OUT_OF_MEMORY = re.compile(r"\b(?:m|c|re)alloc\b.*\bfailed\b", re.IGNORECASE)
_ERROR_NUMBER = re.compile(r"^code=\d+: ")
_TEXT_FLAGS = pymupdf.TEXT_PRESERVE_WHITESPACE | pymupdf.TEXT_MEDIABOX_CLIP


class PdfDocument:
    """An open PDF.

    Args:
        data: the whole file, best a memory map: MuPDF then reads only what it needs, and its
            messages cannot name the path.
        settings: password and resolution.

    Raises:
        InputError: encrypted, no-pages, not-a-pdf or unreadable.
    """

    rendered_by = f"mupdf {pymupdf.mupdf_version}"

    def __init__(self, data: mmap.mmap | bytes, settings: RenderSettings) -> None:
        self._settings = settings
        _take_warnings()
        try:
            # Only PDF files get here, but MuPDF looks at the content for itself: check is_pdf.
            self._document = pymupdf.open(stream=memoryview(data), filetype="pdf")
            if not self._document.is_pdf:
                raise InputError("not-a-pdf", "the content is not that of a PDF")
            # Before the page count, which is 0 or an error for a locked document.
            if self._document.needs_pass and not self._unlock(settings.password):
                what = "the password is wrong" if settings.password else "it needs --password"
                raise InputError("encrypted", f"the document is encrypted; {what}")
            self.page_count = int(self._document.page_count)
            self._look_up_pages()
        except (pymupdf.FileDataError, pymupdf.mupdf.FzErrorBase, RuntimeError) as error:
            code, message = describe(error)
            if code == "page-memory":
                raise InputError(code, message) from error
            raise InputError("unreadable", f"damaged beyond repair: {message}") from error
        self.warnings = _take_warnings()
        # As it is now: after a repair while a page is drawn, the next would depend on that one.
        self._repaired = bool(self._document.is_repaired)
        if self.page_count < 1:
            raise InputError("no-pages", "no page could be found in the document")

    def _unlock(self, password: str | None) -> bool:
        return password is not None and bool(self._document.authenticate(password))

    def _look_up_pages(self) -> None:
        """Have MuPDF walk the page tree now: what it complains of is not the first page's fault."""
        with suppress(pymupdf.mupdf.FzErrorBase, ValueError, RuntimeError):
            self._document.page_xref(0)

    def size_px(self, index: int) -> tuple[int, int]:
        """(width, height) that a page would be rendered in; zeros where that would fail."""
        with suppress(pymupdf.mupdf.FzErrorBase, ValueError, RuntimeError, InputError):
            rect = self._document.load_page(index).rect
            scale = choose_scale((rect.width, rect.height), self._settings)
            return math.ceil(rect.width * scale), math.ceil(rect.height * scale)
        return 0, 0

    def _check_content(self, page: pymupdf.mupdf.PdfPage) -> None:
        """Refuse a bomb: a kilobyte of a file can unpack to gigabytes of instructions.

        Raises:
            InputError: "too-large". Whether such a page ends in time would depend on the machine.
        """
        mupdf, most = pymupdf.mupdf, self._settings.max_content
        with suppress(mupdf.FzErrorBase):  # broken: drawing it says how
            contents = mupdf.pdf_page_contents(page)
            stream = mupdf.pdf_open_contents_stream(page.doc(), contents)
            if mupdf.fz_skip(stream, most + 1) > most:
                what = f"its instructions unpack to more than {most >> 20} MiB"
                raise InputError("too-large", f"{what} (--max-content-mib)")

    def render(self, ref: PageRef) -> PageImage:
        """Render a page with its annotations, as a reader shows it: rotated and cropped.

        Raises:
            InputError: "page-missing" where a damaged file lost the page, "input-changed" where
                there never was one, or the page has no sensible size.
            Exception: whatever MuPDF raises; `describe` knows.
        """
        if ref.index >= self.page_count:
            raise InputError("input-changed", f"the file now has {self.page_count} pages")
        # Fonts and images of earlier pages are forgotten: a page's warnings must not depend on
        # which pages came before it in this process, and memory must not grow with the document.
        pymupdf.TOOLS.store_shrink(100)
        pymupdf.mupdf.fz_purge_glyph_cache()
        _take_warnings()
        page = self._document.load_page(ref.index)
        pdf_page = pymupdf.mupdf.pdf_page_from_fz_page(page.this)
        if not pymupdf.mupdf.pdf_is_dict(pdf_page.obj()):
            # MuPDF would show a blank page.
            what = "the page is announced but not in the file, which may have been cut short"
            raise InputError("page-missing", what)
        self._check_content(pdf_page)
        page_pt = (page.rect.width, page.rect.height)
        scale = choose_scale(page_pt, self._settings)
        pixmap = page.get_pixmap(
            matrix=pymupdf.Matrix(scale, scale),
            colorspace=pymupdf.csRGB,
            alpha=False,
            annots=True,
        )
        pixels = np.asarray(_Samples(pixmap))
        text = _text_layer(page)
        warnings = _take_warnings()
        if any(_OUT_OF_MEMORY.search(warning) for warning in warnings):
            # MuPDF goes on without what did not fit, and the page would look finished.
            raise MemoryError("out of memory: parts of the page were left out")
        if self._repaired and not warnings and shows_nothing(pixels):
            warnings = ("nothing is on this page; the file is damaged and had to be repaired",)
        return PageImage(
            ref=ref,
            pixels=pixels,
            dpi=scale * POINTS_PER_INCH,
            page_pt=page_pt,
            rotation=page.rotation % 360,
            px_to_pt=_px_to_pt(pdf_page, scale),
            text=text,
            rendered_by=self.rendered_by,
            warnings=warnings,
        )


class _Samples:
    """A pixmap's pixels as numpy sees them, u8 [H, W, 3]: not a copy, so the pixmap is kept."""

    def __init__(self, pixmap: pymupdf.Pixmap) -> None:
        self._pixmap = pixmap
        self.__array_interface__ = {
            "version": 3,
            "typestr": "|u1",
            "shape": (pixmap.height, pixmap.width, 3),
            "strides": (pixmap.stride, 3, 1),
            "data": (pixmap.samples_ptr, False),
        }


def is_blank(image: PageImage) -> bool:
    """Whether nothing is on the page, or nothing is left of it.

    No text in its layer, unless the engine complained: it could not draw it then; and nothing to
    see.
    """
    if image.has_text and not image.warnings:
        return False
    return shows_nothing(image.pixels)


def shows_nothing(pixels: U8) -> bool:
    """Whether a page is mere paper. pixels: u8 [H, W, 3].

    No pixel is further than BLANK_LEVELS from the colour of the paper: in each channel, the
    commonest value.
    """
    if pixels.size == 0:
        return True
    # One axis at a time: both at once takes a hundred times as long.
    low, high = pixels.min(axis=0).min(axis=0), pixels.max(axis=0).max(axis=0)
    if np.any(high - low > 2 * BLANK_LEVELS):
        return False  # the common case, decided without counting
    paper = paper_colour(pixels).astype(np.int16)
    return bool(np.all(high - paper <= BLANK_LEVELS) and np.all(paper - low <= BLANK_LEVELS))


def paper_colour(pixels: U8) -> U8:
    """The commonest value of each channel. pixels: u8 [H, W, 3] -> u8 [3]."""
    counts = [np.bincount(pixels[..., c].ravel(), minlength=256).argmax() for c in range(3)]
    return np.array(counts, np.uint8)


def describe(error: BaseException) -> tuple[FailureCode, str]:
    """Say in docr's codes what went wrong with a page; MuPDF's errors share no base class."""
    if isinstance(error, InputError):
        return error.code, error.message
    # PyMuPDF says little and keeps MuPDF's error as the cause.
    message = _ERROR_NUMBER.sub("", clean_line(str(error.__cause__ or error)))
    message = message or type(error).__name__
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(message):
        return "page-memory", f"not enough memory for this page: {message}"
    return "page-error", message


def _text_layer(page: pymupdf.Page) -> str:
    try:
        text: str = page.get_text("text", flags=_TEXT_FLAGS)
    except pymupdf.mupdf.FzErrorBase:
        return ""  # the pixels are there; the message is among the warnings
    return text.strip()[:MAX_TEXT]


def _px_to_pt(pdf_page: pymupdf.mupdf.PdfPage, scale: float) -> Affine | None:
    """Undo the scale, rotation, crop box and UserUnit: MuPDF's own page transform, inverted."""
    mediabox, ctm = pymupdf.mupdf.FzRect(), pymupdf.mupdf.FzMatrix()
    pymupdf.mupdf.pdf_page_transform(pdf_page, mediabox, ctm)
    determinant = ctm.a * ctm.d - ctm.b * ctm.c
    if not math.isfinite(determinant) or determinant == 0:
        return None
    a, b = ctm.d / determinant, -ctm.b / determinant
    c, d = -ctm.c / determinant, ctm.a / determinant
    e, f = -(ctm.e * a + ctm.f * c), -(ctm.e * b + ctm.f * d)
    inverse = (a / scale, b / scale, c / scale, d / scale, e, f)
    return inverse if all(math.isfinite(value) for value in inverse) else None


def _take_warnings() -> tuple[str, ...]:
    """MuPDF's messages since the last call, each once."""
    lines = clean_lines(pymupdf.TOOLS.mupdf_warnings(reset=True))
    return tuple(line for line in lines if not line.startswith("... repeated "))
