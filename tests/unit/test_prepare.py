"""The views, byte for byte against the official preprocessing."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from docr.modes.mode import MODES
from docr.modes.prepare import prepare_views
from docr.settings import ModeName
from docr.types import U8

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "../shared/vectors"
GREY = 127

needs_vectors = pytest.mark.skipif(
    not VECTORS.is_dir(), reason="no official vectors beside the checkout"
)


def formula_image(width: int, height: int) -> U8:
    """The image of the vectors' note."""
    x, y = np.arange(width)[None, :], np.arange(height)[:, None]
    red, green, blue = (5 * x + 3 * y), (x * x) // 7 + y, (x ^ y) * 11
    return np.stack([red % 256, green % 256, blue % 256], axis=-1).astype(np.uint8)


def cases() -> list[dict[str, Any]]:
    if not VECTORS.is_dir():
        return []
    loaded: list[dict[str, Any]] = json.loads((VECTORS / "preproc_cases.json").read_text())["cases"]
    return loaded


def sha256(views_nchw: U8) -> str:
    """As the vectors have it: over u8, channels last."""
    return hashlib.sha256(np.moveaxis(views_nchw, -3, -1).tobytes()).hexdigest()


@needs_vectors
@pytest.mark.parametrize(
    "case", cases(), ids=lambda case: f"{case['mode']}-{case['width']}x{case['height']}"
)
def test_views_are_the_official_bytes(case: dict[str, Any]) -> None:
    mode = MODES[case["mode"]]
    views = prepare_views(formula_image(case["width"], case["height"]), mode)
    assert views.image_size == (case["width"], case["height"])
    assert list(views.grid) == case["grid_w_h"]
    assert views.tiles.shape[0] == case["n_tiles"]
    assert mode.num_vision_tokens(views.grid) == case["image_tokens"]
    assert [1, *views.global_view.shape] == case["global_shape"]
    assert sha256(views.global_view[None]) == case["global_sha256_u8_nhwc"]
    if case["n_tiles"]:
        assert list(views.tiles.shape) == case["local_shape"]
        assert sha256(views.tiles) == case["local_sha256_u8_nhwc"]
        assert [sha256(tile) for tile in views.tiles] == case["tile_sha256_u8"]


@needs_vectors
def test_tiles_lie_where_the_official_boxes_are() -> None:
    boxes = json.loads((VECTORS / "misc_cases.json").read_text())["tile_boxes_2x3"]
    page = formula_image(1280, 1920)  # already as large as its grid: tiles are plain crops
    views = prepare_views(page, MODES["gundam"])
    assert views.grid == (2, 3)
    for tile, (x0, y0, x1, y1) in zip(views.tiles, boxes, strict=True):
        assert np.array_equal(tile, page[y0:y1, x0:x1].transpose(2, 0, 1))


@pytest.mark.parametrize("size", [(1023, 1025), (31, 1777), (2000, 3), (999, 700), (64, 64)])
@pytest.mark.parametrize("name", ["base", "large"])
def test_padding_is_pillows(name: ModeName, size: tuple[int, int]) -> None:
    mode = MODES[name]
    page = formula_image(*size)
    expected = ImageOps.pad(
        Image.fromarray(page), (mode.base_px, mode.base_px), color=(GREY, GREY, GREY)
    )
    ours = prepare_views(page, mode).global_view.transpose(1, 2, 0)
    assert np.array_equal(ours, np.asarray(expected))


def test_a_page_thinner_than_a_pixel_is_still_drawn() -> None:
    page = np.zeros((1, 5000, 3), np.uint8)
    view = prepare_views(page, MODES["base"]).global_view
    assert (view == 0).all(axis=0).any(axis=1).sum() == 1  # one black row


def test_gundam_m_compares_with_its_own_tile() -> None:
    assert prepare_views(formula_image(1000, 900), MODES["gundam-m"]).grid == (1, 1)
    views = prepare_views(formula_image(1025, 520), MODES["gundam-m"].with_max_tiles(2))
    assert views.grid == (2, 1)
    assert views.tiles.shape == (2, 3, 1024, 1024)
    assert views.global_view.shape == (3, 1280, 1280)


@pytest.mark.parametrize("name", ["tiny", "gundam"])
def test_views_own_contiguous_bytes(name: ModeName) -> None:
    views = prepare_views(formula_image(700, 300), MODES[name])
    for array in (views.global_view, views.tiles):
        assert array.dtype == np.uint8
        assert array.flags.c_contiguous


def test_a_view_of_a_larger_buffer_is_read_correctly() -> None:
    buffer = formula_image(300, 400)
    window = buffer[50:350, 20:260]
    ours = prepare_views(window, MODES["tiny"]).global_view
    assert np.array_equal(ours, prepare_views(window.copy(), MODES["tiny"]).global_view)


def test_runs_without_torch_tokenizers_or_pymupdf() -> None:
    code = (
        "import sys; import docr.modes.prepare; "
        "print(sorted({'torch', 'tokenizers', 'pymupdf', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
