"""Which grid of local tiles a page gets."""

import functools

from docr.modes.mode import NO_TILES, Mode
from docr.types import Grid


def grid_of(mode: Mode, width: int, height: int) -> Grid:
    """The grid that a page image of this size, in pixels, gets in a mode."""
    if mode.tile_px is None:
        return NO_TILES
    return choose_grid(width, height, tile_px=mode.tile_px, max_tiles=mode.max_tiles)


def choose_grid(width: int, height: int, *, tile_px: int, max_tiles: int) -> Grid:
    """Pick the grid of 2 to `max_tiles` tiles whose proportions are nearest the page's.

    Of grids with the same proportions the page gets the largest that it fills by more than half
    with its own pixels. The ratios are compared as floats, as the model's authors do: a page
    exactly between two ratios goes where rounding sends it (1600 x 1920, at most 6 tiles, gets
    2 x 2, where exact arithmetic would give 2 x 3), and the model should see what it would see
    elsewhere.

    Args:
        width: of the page image, pixels.
        height: of the page image, pixels.
        tile_px: side of a tile; a page no larger than one in either direction gets no tiles.
        max_tiles: most tiles, 2 or more.

    Returns:
        (columns, rows); (1, 1): no tiles.

    Source: find_closest_aspect_ratio, DeepSeek-OCR process/image_process.py.
    """
    assert width > 0 and height > 0 and max_tiles > 1, (width, height, max_tiles)
    if width <= tile_px and height <= tile_px:
        return NO_TILES
    aspect = width / height
    best, best_difference = NO_TILES, float("inf")
    for columns, rows in _grids(max_tiles):
        difference = abs(aspect - columns / rows)
        half_filled = 2 * width * height > tile_px * tile_px * columns * rows
        if difference < best_difference or (difference == best_difference and half_filled):
            best, best_difference = (columns, rows), difference
    return best


@functools.cache
def _grids(max_tiles: int) -> tuple[Grid, ...]:
    """All grids of 2 to `max_tiles` tiles, those of few tiles first."""
    grids = (
        (columns, rows)
        for columns in range(1, max_tiles + 1)
        for rows in range(1, max_tiles // columns + 1)
        if columns * rows > 1
    )
    return tuple(sorted(grids, key=lambda grid: grid[0] * grid[1]))
