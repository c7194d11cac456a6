"""From a page image to the views that the model is shown, byte for byte as the authors make them.

Runs in the rendering processes: Pillow, numpy and what is compiled of our own only.
"""

import numpy as np

from docr.modes.mode import NO_TILES, Mode
from docr.modes.resample import library, resample
from docr.modes.tiles import grid_of
from docr.types import U8, Grid, PageViews

_GREY = 127
"""Of the padding: the mean of the model's normalisation, 0.5, in 8 bits."""


def set_up() -> None:
    """Load what `prepare_views` needs; afterwards it works in a process that may open no file."""
    library()


def prepare_views(pixels: U8, mode: Mode) -> PageViews:
    """Make the global view and, in a tiled mode, the local tiles of a page.

    Args:
        pixels: u8 [H, W, 3], RGB, upright, without transparency.
        mode: which views, and how large.

    Source: tokenize_with_images, DeepSeek-OCR process/image_process.py.
    """
    height, width, channels = pixels.shape
    assert height > 0 and width > 0 and channels == 3, pixels.shape
    grid = grid_of(mode, width, height)
    view = _stretched if mode.stretches else _padded
    return PageViews(
        image_size=(width, height),
        global_view=view(pixels, mode.base_px),
        tiles=_tiles(pixels, grid, mode.tile_px or mode.base_px),
        grid=grid,
    )


def _tiles(pixels: U8, grid: Grid, side: int) -> U8:
    """Stretch the page over the grid and cut it up: u8 [n, 3, side, side], n = 0 without tiles."""
    if grid == NO_TILES:
        return np.empty((0, 3, side, side), np.uint8)
    columns, rows = grid
    canvas = np.empty((3, rows * side, columns * side), np.uint8)
    resample(pixels, canvas)
    # 3, r*T, c*T -> 3, r, T, c, T -> r, c, 3, T, T -> n, 3, T, T; copied once
    cut = canvas.reshape(3, rows, side, columns, side).transpose(1, 3, 0, 2, 4)
    return np.ascontiguousarray(cut).reshape(columns * rows, 3, side, side)


def _stretched(pixels: U8, side: int) -> U8:
    """The page over the whole square, whatever its proportions: u8 [3, side, side]."""
    view = np.empty((3, side, side), np.uint8)
    resample(pixels, view)
    return view


def _padded(pixels: U8, side: int) -> U8:
    """The page as large as the square allows, centred on grey: u8 [3, side, side].

    Sizes and offsets round halves to even, as Pillow's ImageOps.pad does. Unlike there, a page
    thinner than half a pixel is drawn one pixel thin, not left out.
    """
    page_height, page_width, _ = pixels.shape
    width = height = side
    if page_width > page_height:
        height = max(1, round(page_height / page_width * side))
    else:
        width = max(1, round(page_width / page_height * side))
    left, top = round((side - width) * 0.5), round((side - height) * 0.5)
    view = np.full((3, side, side), _GREY, np.uint8)
    resample(pixels, view[:, top : top + height, left : left + width])
    return view
