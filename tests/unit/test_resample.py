"""Resizing in C against Pillow, which decides."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from docr.compiled import Unavailable
from docr.modes import resample as module
from docr.modes.resample import CODE, resample
from docr.types import U8
from tests.unit.test_compiled import has_compiler

SIDES = st.integers(1, 300)


def is_wanted() -> bool:
    """Whether the compiled code must work here; that it fails to compile is no reason to skip."""
    try:
        CODE.check_processor()
    except Unavailable:
        return False
    return has_compiler()


needs_code = pytest.mark.skipif(not is_wanted(), reason="no C compiler, or no AVX2")


def noise(height: int, width: int, seed: int, *, harsh: bool = False) -> U8:
    """Random pixels; harsh ones are 0 or 255, so that sums leave the range of a byte."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return np.where(pixels < 128, np.uint8(0), np.uint8(255)) if harsh else pixels


def by_pillow(pixels: U8, width: int, height: int) -> U8:
    image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image).transpose(2, 0, 1)


@needs_code
def test_it_is_compiled_here() -> None:
    assert module.library() is not None


@settings(max_examples=300, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.integers(0, 9), st.booleans())
@example(297, 210, 91, 64, 0, True)  # a page
@example(300, 100, 30, 10, 1, True)  # a till receipt
@example(100, 100, 100, 100, 2, True)
@example(1, 1, 300, 300, 3, True)
@example(41, 20, 20, 10, 4, True)  # on either side of where Pillow turns to columns first
@example(40, 20, 20, 10, 4, True)
def test_it_is_pillow_to_the_last_bit(
    height: int, width: int, to_height: int, to_width: int, seed: int, harsh: bool
) -> None:
    pixels = noise(height, width, seed, harsh=harsh)
    out = np.empty((3, to_height, to_width), np.uint8)
    resample(pixels, out)
    assert np.array_equal(out, by_pillow(pixels, to_width, to_height))


@pytest.mark.parametrize("size", [(362, 512), (724, 1024), (1280, 1920)])
def test_pages_of_their_real_size(size: tuple[int, int]) -> None:
    pixels, (width, height) = noise(1684, 1190, 7, harsh=True), size
    out = np.empty((3, height, width), np.uint8)
    resample(pixels, out)
    assert np.array_equal(out, by_pillow(pixels, width, height))


def test_it_reads_and_writes_parts_of_arrays() -> None:
    whole, canvas = noise(90, 120, 1), np.full((3, 80, 70), 9, np.uint8)
    for part in (whole[5:77, 3:100], whole[::2, ::3], whole[:, :, ::-1]):
        canvas[:] = 9
        resample(part, canvas[:, 10:50, 20:53])
        assert np.array_equal(canvas[:, 10:50, 20:53], by_pillow(part.copy(), 33, 40))
        canvas[:, 10:50, 20:53] = 9
        assert np.all(canvas == 9)


def test_pillow_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "library", lambda: None)
    pixels, out = noise(31, 47, 2), np.empty((3, 12, 17), np.uint8)
    resample(pixels, out)
    assert np.array_equal(out, by_pillow(pixels, 17, 12))


@needs_code
def test_most_pages_need_no_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Image", None)
    for shape in ((1684, 1190), (1190, 1684), (1080, 1440)):
        resample(noise(*shape, 0), np.empty((3, *(side // 3 for side in shape)), np.uint8))


def test_no_memory_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def docr_resample(self, *arguments: object) -> int:
            return -1

    monkeypatch.setattr(module, "library", Full)
    with pytest.raises(MemoryError, match="docr_resample"):
        resample(noise(8, 8, 0), np.empty((3, 4, 4), np.uint8))
