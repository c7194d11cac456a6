"""How pages are rendered and what that may cost; needs no rendering engine to be imported."""

import math
from dataclasses import dataclass, field

from docr.errors import InputError

POINTS_PER_INCH = 72.0
OFFICIAL_DPI = 144.0  # as the model's authors render PDFs; Source: pdf_to_images_high_quality
MAX_SIDE_PX = 20_000
MAX_SIDE_PT = 1e6  # 350 m; larger rectangles are damage, and a page's content would not be seen
MAX_TEXT = 20_000  # characters of a page's text layer; a dense page has 5,000

MAX_LOST_IN_A_ROW = 3  # pages that the second engine cannot render end a file

SANDBOX = "seccomp"
"""The layer without which a child is in no sandbox: it alone denies network, writes, programs."""

SECOND_ENGINE = "pdfium"
"""How `rendered_by` begins where the second engine did it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderSettings:
    """What a rendering process is told about every document.

    Attributes:
        dpi: pixels per inch; None: from the page's size and `min_edge_px` (render.choose_scale).
        min_edge_px: the long edge of a small page is enlarged to at least this; not with `dpi`.
        max_pixels: most pixels of a rendered page, whatever `dpi` says.
        max_image_pixels: most pixels that a page image may declare.
        max_aspect: most that a page's long side may be of its short one.
        max_content: bytes that a page's drawing instructions may unpack to.
        max_pages: of a file; one that has, or claims, more is refused.
        page_timeout: seconds a page, or opening a document, may take.
        password: tried on encrypted documents; the empty user password always is.
        memory_limit: bytes of address space of a rendering process, besides the file it reads.
        require_sandbox: render nothing where the system cannot lock up rendering processes.
    """

    dpi: float | None = None
    min_edge_px: int = 1024
    max_pixels: int = 25_000_000
    max_image_pixels: int = 400_000_000
    max_aspect: float = 200.0
    max_content: int = 256 << 20
    max_pages: int = 20_000
    page_timeout: float = 30.0
    password: str | None = field(default=None, repr=False)
    memory_limit: int = 4 << 30
    require_sandbox: bool = False


def by_second_engine(rendered_by: str | None) -> bool:
    """Whether `rendered_by` of a document, or a page, names the second engine."""
    return rendered_by is not None and rendered_by.startswith(SECOND_ENGINE)


def check_aspect(width: float, height: float, settings: RenderSettings) -> None:
    """Refuse a strip: shrunk to the pixel budget, nothing on it could be read.

    Raises:
        InputError: "too-large".
    """
    if max(width, height) > settings.max_aspect * min(width, height):
        what = f"{width:g} x {height:g} is a strip, more than {settings.max_aspect:g} times as long"
        raise InputError("too-large", f"{what} as wide (--max-aspect)")


def choose_scale(page_pt: tuple[float, float], settings: RenderSettings) -> float:
    """Pixels per point for a page.

    Starts from --dpi or the official 144; without --dpi a small page is enlarged until its long
    edge has `min_edge_px`. A large one is reduced to the budget in either case.

    Args:
        page_pt: (width, height) of the visible page in points.
        settings: dpi, min_edge_px, max_pixels and max_aspect.

    Raises:
        InputError: "page-error" for a page without area, "too-large" where no legible image fits.
    """
    width, height = page_pt
    if not (width > 0 and height > 0):  # also NaN
        raise InputError("page-error", f"a page of {width:g} x {height:g} points has no area")
    if max(width, height) > MAX_SIDE_PT:
        raise InputError("too-large", f"the page measures {width:g} x {height:g} points")
    check_aspect(width, height, settings)
    if settings.dpi is not None:
        scale = settings.dpi / POINTS_PER_INCH
    else:
        scale = max(OFFICIAL_DPI / POINTS_PER_INCH, settings.min_edge_px / max(width, height))
    # Renderers round up: the largest s with (s w + 1)(s h + 1) <= max_pixels.
    area, half = width * height, (width + height) / 2
    fits = (math.sqrt(half**2 + area * (settings.max_pixels - 1)) - half) / area
    scale = min(scale, fits, (MAX_SIDE_PX - 1) / max(width, height))
    if scale * min(width, height) < 1:
        raise InputError("page-error", f"a page of {width:g} x {height:g} points has no pixel")
    return scale
