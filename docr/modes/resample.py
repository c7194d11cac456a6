"""Resizing of page images: Pillow's bicubic filter, byte for byte, in an eighth of the time.

The filter is part of what the model was trained on. Where resample.c cannot be had, Pillow itself
resizes.
"""

import ctypes
import functools
import logging
from pathlib import Path

import numpy as np
from PIL import Image

from docr.compiled import Code, Unavailable, cache_folder
from docr.types import U8

log = logging.getLogger(__name__)

CODE = Code(
    sources=(Path(__file__).with_name("resample.c"),),
    # Weights as Pillow's: a fused multiplication and addition would round them another way.
    flags=("-O3", "-shared", "-fPIC", "-mavx2", "-ffp-contract=off"),
    needs=("avx2",),
)

_SIDE = ctypes.c_int64


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled code, or None where it cannot be had; the reason is logged."""
    try:
        loaded = CODE.load(cache_folder())
    except Unavailable as reason:
        log.info("resizing by Pillow alone: %s", reason)
        return None
    sides, pointer = [_SIDE] * 3, ctypes.c_void_p
    loaded.docr_resample.argtypes = [pointer, *sides, pointer, *sides, _SIDE]
    return loaded


def resample(pixels: U8, out: U8) -> None:
    """Resize an image into an array.

    Args:
        pixels: u8 [H, W, 3].
        out: u8 [3, height, width], whose rows, but not more, must be in one piece.
    """
    _, height, width = out.shape
    if (compiled := library()) is not None:
        rows = pixels if pixels.strides[1:] == (3, 1) else np.ascontiguousarray(pixels)
        plane, line, _ = out.strides
        source, target = rows.ctypes.data, out.ctypes.data
        sides = (*rows.shape[:2], rows.strides[0])
        if compiled.docr_resample(source, *sides, target, height, width, plane, line):
            raise MemoryError("docr_resample: not enough memory")
        return
    image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
    out[...] = np.asarray(image).transpose(2, 0, 1)
