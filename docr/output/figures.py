"""Cutting a page's figures out of its image, as PNG files."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from docr.types import U8


@dataclass(frozen=True, slots=True)
class FigureFile:
    """A figure as it will lie on disk.

    Attributes:
        name: relative to the page's folder, such as "figures/page-0001-1.png".
        box_px: (x0, y0, x1, y1) on the rendered page.
        png: the file's content.
    """

    name: str
    box_px: tuple[int, int, int, int]
    png: bytes


def cut_figures(
    pixels: U8, boxes: Sequence[tuple[str, tuple[int, int, int, int]]]
) -> tuple[FigureFile, ...]:
    """Cut boxes out of a page.

    Args:
        pixels: u8 [H, W, 3].
        boxes: `ParsedPage.figures`: name and (x0, y0, x1, y1) in pixels. The model wrote them:
            they are clamped to the page, and an empty one keeps a pixel.
    """
    height, width = pixels.shape[:2]
    figures = []
    for name, (left, top, right, bottom) in boxes:
        x0, y0 = min(max(left, 0), width - 1), min(max(top, 0), height - 1)
        x1, y1 = min(max(right, x0 + 1), width), min(max(bottom, y0 + 1), height)
        png = io.BytesIO()
        Image.fromarray(pixels[y0:y1, x0:x1]).save(png, "PNG")
        figures.append(FigureFile(name, (x0, y0, x1, y1), png.getvalue()))
    return tuple(figures)
