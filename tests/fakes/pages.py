"""Input for the engine without any document: noise for pixels, noise for a prompt."""

from pathlib import Path

import numpy as np

from docr.types import Grid, PageInputs, PageRef, PageViews

IMAGE_ID = 270  # of the toy checkpoint; the model never looks at it
PX_PER_TOKEN = 64


def page_inputs(
    number: int,
    *,
    base_px: int = 128,
    tile_px: int = 128,
    grid: Grid = (1, 1),
    text: int | list[int] = 8,
) -> PageInputs:
    """A page that only its number determines. `text`: its prompt's ids, or how many."""
    random = np.random.default_rng(number)
    columns, rows = grid
    tiles = columns * rows if columns * rows > 1 else 0
    side, tile_side = base_px // PX_PER_TOKEN, tile_px // PX_PER_TOKEN
    vision = side * (side + 1) + 1
    if tiles:
        vision += rows * tile_side * (columns * tile_side + 1)
    prompt = random.integers(3, 250, text).tolist() if isinstance(text, int) else text
    ids = np.array([0, *[IMAGE_ID] * vision, *prompt])
    places = np.arange(len(ids))
    return PageInputs(
        ref=PageRef(Path("noise.pdf"), number - 1),
        views=PageViews(
            image_size=(base_px, base_px),
            global_view=random.integers(0, 256, (3, base_px, base_px), dtype=np.uint8),
            tiles=random.integers(0, 256, (tiles, 3, tile_px, tile_px), dtype=np.uint8),
            grid=grid,
        ),
        input_ids=ids,
        image_mask=(places >= 1) & (places <= vision),
    )
