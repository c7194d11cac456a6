"""What comes out of a rendering child: values for the caller, and how they cross over.

A page's numbers travel as a JSON header, its pixels and views through memory that the parent
passes with its request, in this order: pixels [H, W, 3], global view [3, B, B], tiles [n, 3, T, T],
all u8.
"""

import dataclasses
import math
import os
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from docr.errors import FailureCode
from docr.pdf import wire
from docr.pdf.settings import MAX_TEXT, RenderSettings
from docr.pdf.wire import Message, WireError
from docr.types import U8, PageFailure, PageImage, PageRef, PageViews, SourceFile

MAX_VIEWS_BYTES = 64 << 20  # gundam-m with nine tiles: 33 MB
MAX_PAGES = 100_000_000
_MAX_SIDE_PX = 65_535
_MAX_VIEW_PX = 4096
_MAX_TILES = 1024
_CODES: tuple[FailureCode, ...] = get_args(FailureCode)


@dataclass(frozen=True, slots=True)
class DocumentInfo:
    """What opening a document tells.

    Attributes:
        sizes_px: (width, height) that each page would be rendered in, where sizes were asked for,
            else empty; zeros for pages that cannot be rendered.
        warnings: complaints on opening, such as a repair.
    """

    page_count: int
    sizes_px: tuple[tuple[int, int], ...]
    rendered_by: str
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RenderTask:
    """Pages of one document to render, in this order."""

    source: SourceFile
    indexes: tuple[int, ...]  # 0-based
    rescued: bool = False  # the first engine cannot open it, the second can


@dataclass(frozen=True, slots=True, eq=False)
class RenderedPage:
    """A page as pixels and as the transform made it.

    Attributes:
        image: of a blank page, the pixels are its paper's colour alone (a broadcast array).
        views: what the transform returned; None for a blank page.
        seconds: spent rendering.
        transform_seconds: spent in the transform.
    """

    image: PageImage
    views: PageViews | None
    blank: bool
    seconds: float
    transform_seconds: float


def page_bytes(settings: RenderSettings) -> int:
    """Size of the largest page with its views."""
    return 3 * settings.max_pixels + MAX_VIEWS_BYTES


def write_page(memory: int, page: RenderedPage, paper: U8 | None) -> Message:
    """Write a page's arrays into its memory (child side); return its header.

    Args:
        memory: descriptor of it.
        page: what to write.
        paper: the colour of a blank page, which is all that is sent of it.

    Raises:
        ValueError: the arrays do not have the shapes of a page, or are larger than one may be.
    """
    image, views = page.image, page.views
    header: Message = {
        "size": [image.pixels.shape[1], image.pixels.shape[0]],
        "dpi": image.dpi,
        "page_pt": image.page_pt,
        "rotation": image.rotation,
        "px_to_pt": image.px_to_pt,
        "text": image.text,
        "rendered_by": image.rendered_by,
        "warnings": image.warnings,
        "paper": None if paper is None else paper.tolist(),
        "views": None,
        "seconds": page.seconds,
        "transform_seconds": page.transform_seconds,
    }
    arrays: list[U8] = [] if page.blank else [image.pixels]
    if views is not None:
        edge, (count, tile) = views.global_view.shape[-1], views.tiles.shape[::3]
        if views.global_view.shape != (3, edge, edge) or views.tiles.shape[1:3] != (3, tile):
            raise ValueError("the transform's views have other shapes than PageViews says")
        if views.global_view.nbytes + views.tiles.nbytes > MAX_VIEWS_BYTES:
            raise ValueError("the transform's views are larger than they may be")
        header["views"] = [*views.image_size, edge, count, tile, *views.grid]
        arrays += [views.global_view, views.tiles]
    offset = 0
    for array in arrays:
        data = np.ascontiguousarray(array, np.uint8).reshape(-1).data
        while len(data):
            written = os.pwrite(memory, data, offset)
            data = data[written:]
            offset += written
    return header


def read_page(header: Message, data: U8, ref: PageRef, settings: RenderSettings) -> RenderedPage:
    """Understand a page (parent side), trusting nothing.

    Args:
        header: what the child said.
        data: u8 [bytes], the contents of the page's memory; its arrays are parts of them.
        ref: the page that was asked for.
        settings: whose limits it keeps.

    Raises:
        WireError: the header is not that of a page within its bounds.
    """
    size = wire.items(header.get("size"), 2)
    width, height = (wire.integer(side, 1, _MAX_SIDE_PX) for side in size)
    if width * height > settings.max_pixels:
        raise WireError("more pixels than were allowed")
    paper = header.get("paper")
    if paper is None:
        pixels = _part(data, 0, (height, width, 3))
    else:
        colour = np.array([wire.integer(c, 0, 255) for c in wire.items(paper, 3)], np.uint8)
        pixels = np.broadcast_to(colour, (height, width, 3))
    transform = header.get("px_to_pt")
    image = PageImage(
        ref=ref,
        pixels=pixels,
        dpi=wire.number(header.get("dpi")),
        page_pt=wire.pair(header.get("page_pt")),
        rotation=wire.integer(header.get("rotation"), 0, 359),
        px_to_pt=None if transform is None else wire.affine(transform),
        text=wire.text(header.get("text"), MAX_TEXT),
        rendered_by=wire.line(header.get("rendered_by")),
        warnings=wire.lines(header.get("warnings")),
    )
    return RenderedPage(
        image=image,
        views=None if paper is not None else _read_views(header, data, pixels.nbytes),
        blank=paper is not None,
        seconds=wire.number(header.get("seconds")),
        transform_seconds=wire.number(header.get("transform_seconds")),
    )


def _read_views(header: Message, data: U8, offset: int) -> PageViews:
    width, height, edge, count, tile, columns, rows = (
        wire.integer(item, 0, _MAX_SIDE_PX) for item in wire.items(header.get("views"), 7)
    )
    if max(edge, tile) > _MAX_VIEW_PX or count > _MAX_TILES:
        raise WireError("views out of bounds")
    global_view = _part(data, offset, (3, edge, edge))
    tiles = _part(data, offset + global_view.nbytes, (count, 3, tile, tile))
    return PageViews(
        image_size=(width, height), global_view=global_view, tiles=tiles, grid=(columns, rows)
    )


def _part(data: U8, offset: int, shape: tuple[int, ...]) -> U8:
    end = offset + math.prod(shape)
    if end > len(data):
        raise WireError("the memory holds less than the header says")
    return data[offset:end].reshape(shape)


def failure_message(
    code: FailureCode, message: str, *, stage: str = "render", rendered_by: str | None = None
) -> Message:
    """The header of a page, or of a document, that failed (child side)."""
    return {"failed": code, "message": message, "stage": stage, "rendered_by": rendered_by}


def read_failure(header: Message, ref: PageRef) -> PageFailure:
    """The failure in a header (parent side). Raises WireError."""
    code, stage, rendered_by = (header.get(key) for key in ("failed", "stage", "rendered_by"))
    known = next((known for known in _CODES if known == code), None)
    if known is None:
        raise WireError("unknown failure code")
    where: Literal["open", "render", "prepare"] = "render"
    if stage == "open":
        where = "open"
    elif stage == "prepare":
        where = "prepare"
    return PageFailure(
        ref=ref,
        stage=where,
        code=known,
        message=wire.line(header.get("message")),
        rendered_by=None if rendered_by is None else wire.line(rendered_by),
    )


def info_message(info: DocumentInfo) -> Message:
    """A DocumentInfo as a frame (child side)."""
    return dataclasses.asdict(info)


def read_info(message: Message, *, max_pages: int = MAX_PAGES) -> DocumentInfo:
    """A DocumentInfo from a frame (parent side). Raises WireError."""
    page_count = wire.integer(message.get("page_count"), 1, max_pages)
    sizes = message.get("sizes_px")
    if not isinstance(sizes, list) or len(sizes) not in (0, page_count):
        raise WireError("expected a size for each page")
    return DocumentInfo(
        page_count=page_count,
        sizes_px=tuple(_read_size(size) for size in sizes),
        rendered_by=wire.line(message.get("rendered_by")),
        warnings=wire.lines(message.get("warnings")),
    )


def _read_size(value: object) -> tuple[int, int]:
    width, height = (wire.integer(side, 0, _MAX_SIDE_PX) for side in wire.items(value, 2))
    return width, height
