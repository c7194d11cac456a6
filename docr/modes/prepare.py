"""From a page image to the views that the model is shown, byte for byte as the authors make them.

Runs in the rendering processes: Pillow and numpy only.
"""

import numpy as np
from PIL import Image

from docr.modes.mode import NO_TILES, Mode
from docr.modes.tiles import grid_of
from docr.types import U8, Grid, PageViews

_GREY = 127
"""Of the padding: the mean of the model's normalisation, 0.5, in 8 bits."""


def prepare_views(pixels: U8, mode: Mode) -> PageViews:
    """Make the global view and, in a tiled mode, the local tiles of a page.

    Args:
        pixels: u8 [H, W, 3], RGB, upright, without transparency.
        mode: which views, and how large.

    Source: tokenize_with_images, DeepSeek-OCR process/image_process.py.
    """
    height, width, channels = pixels.shape
    assert height > 0 and width > 0 and channels == 3, pixels.shape
    image = Image.fromarray(pixels)
    grid = grid_of(mode, width, height)
    view = _stretched if mode.stretches else _padded
    return PageViews(
        image_size=(width, height),
        global_view=view(image, mode.base_px),
        tiles=_tiles(image, grid, mode.tile_px or mode.base_px),
        grid=grid,
    )


def _tiles(image: Image.Image, grid: Grid, side: int) -> U8:
    """Stretch the page over the grid and cut it up: u8 [n, 3, side, side], n = 0 without tiles."""
    if grid == NO_TILES:
        return np.empty((0, 3, side, side), np.uint8)
    columns, rows = grid
    stretched = _resize(image, columns * side, rows * side)
    # r*T, c*T, 3 -> r, T, c, T, 3 -> r, c, 3, T, T -> n, 3, T, T; copied once
    cut = stretched.reshape(rows, side, columns, side, 3).transpose(0, 2, 4, 1, 3)
    return np.ascontiguousarray(cut).reshape(columns * rows, 3, side, side)


def _stretched(image: Image.Image, side: int) -> U8:
    """The page over the whole square, whatever its proportions: u8 [3, side, side]."""
    return np.ascontiguousarray(_resize(image, side, side).transpose(2, 0, 1))


def _padded(image: Image.Image, side: int) -> U8:
    """The page as large as the square allows, centred on grey: u8 [3, side, side].

    Sizes and offsets round halves to even, as Pillow's ImageOps.pad does. Unlike there, a page
    thinner than half a pixel is drawn one pixel thin, not left out.
    """
    width = height = side
    if image.width > image.height:
        height = max(1, round(image.height / image.width * side))
    else:
        width = max(1, round(image.width / image.height * side))
    left, top = round((side - width) * 0.5), round((side - height) * 0.5)
    view = np.full((3, side, side), _GREY, np.uint8)
    view[:, top : top + height, left : left + width] = _resize(image, width, height).transpose(
        2, 0, 1
    )
    return view


def _resize(image: Image.Image, width: int, height: int) -> U8:
    """Resize to u8 [height, width, 3]. The filter is part of what the model was trained on."""
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
