"""The choice of the grid, against the official function."""

import json
from pathlib import Path

import pytest

from docr.modes.tiles import choose_grid

VECTORS = Path(__file__).parents[2] / "../shared/vectors/misc_cases.json"


@pytest.mark.skipif(not VECTORS.exists(), reason="no official vectors beside the checkout")
def test_grids_are_the_official_ones() -> None:
    cases = json.loads(VECTORS.read_text())["grids"]
    assert len(cases) > 400
    for width, height, *grids in cases:
        for max_tiles, grid in zip((9, 6, 32), grids, strict=True):
            ours = choose_grid(width, height, tile_px=640, max_tiles=max_tiles)
            assert list(ours) == grid, (width, height, max_tiles)


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ((640, 640), (1, 1)),
        ((1, 1), (1, 1)),
        ((641, 1), (9, 1)),
        ((641, 640), (2, 2)),
        ((1224, 1584), (2, 3)),  # US letter at 144 dpi
        ((1920, 1080), (4, 2)),
        ((1357, 1357), (2, 2)),
        ((1358, 1358), (3, 3)),  # half of 3 x 3 tiles: 1,843,200 pixels
        ((100_000, 10), (9, 1)),
    ],
)
def test_known_sizes(size: tuple[int, int], grid: tuple[int, int]) -> None:
    assert choose_grid(*size, tile_px=640, max_tiles=9) == grid


def test_six_tiles_as_the_official_server_scripts_have_it() -> None:
    assert choose_grid(1920, 1080, tile_px=640, max_tiles=6) == (2, 1)


def test_a_page_between_two_ratios_goes_where_floats_send_it() -> None:
    """5/6 is as far from 2/3 as from 1; exact arithmetic would see the tie and take 2 x 3."""
    assert choose_grid(1600, 1920, tile_px=640, max_tiles=6) == (2, 2)


def test_every_grid_is_within_the_limit() -> None:
    for max_tiles in range(2, 10):
        for width in range(40, 4000, 331):
            for height in range(641, 4000, 333):
                columns, rows = choose_grid(width, height, tile_px=640, max_tiles=max_tiles)
                assert 2 <= columns * rows <= max_tiles


def test_larger_tiles_have_a_larger_threshold() -> None:
    assert choose_grid(1024, 1024, tile_px=1024, max_tiles=9) == (1, 1)
    assert choose_grid(1024, 1025, tile_px=1024, max_tiles=9) == (2, 2)
