"""Functions for the cage to run on each page, in its children: some good, some hostile.

They tell pages apart by the paper of `tests.pdfs.tinted_pages`: its red level is the page's index.
"""

import importlib
import os
import signal
import stat
import sys
import time
from pathlib import Path

import numpy as np

from docr.types import U8, PageViews


def views(pixels: U8, argument: object = None) -> PageViews:
    """A view filled with the page's index, and two tiles that differ."""
    index = pixels[0, 0, 0]
    tiles = np.stack([np.full((3, 8, 8), 1, np.uint8), np.full((3, 8, 8), 2, np.uint8)])
    return PageViews(
        image_size=(pixels.shape[1], pixels.shape[0]),
        global_view=np.full((3, 16, 16), index, np.uint8),
        tiles=tiles,
        grid=(2, 1),
    )


def faulty(pixels: U8, faults: dict[int, str]) -> PageViews:
    """Come to grief as told for a page."""
    fault = faults.get(int(pixels[0, 0, 0]))
    if fault == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif fault == "exit":
        os._exit(3)
    elif fault == "killed":  # as the kernel does when memory runs out
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault == "hang":
        while True:
            time.sleep(1)
    elif fault == "raise":
        raise ValueError("no views of this page")
    elif fault == "memory":
        np.ones(1 << 34, np.uint8)
    elif fault is not None:
        _say({"babble": b"\0\0\0\2[]", "flood": b"\xff" * 64, "lie": _LIE}[fault])
    return views(pixels)


_LIE_BODY = b'{"index": 1, "size": [60000, 60000], "page_pt": [1, 1], "dpi": 1, "paper": null}'
_LIE = len(_LIE_BODY).to_bytes(4, "big") + _LIE_BODY


def _say(words: bytes) -> None:
    """Speak to the parent as a child would that was taken over."""
    for descriptor in range(3, 64):
        try:
            is_socket = stat.S_ISSOCK(os.fstat(descriptor).st_mode)
        except OSError:
            continue
        if is_socket:
            os.write(descriptor, words)


def modules(pixels: U8, names: tuple[str, ...]) -> PageViews:
    """Import what the product's own transform imports; image_size says (torch?, pymupdf?)."""
    for name in names:
        importlib.import_module(name)
    loaded = (int("torch" in sys.modules), int("pymupdf" in sys.modules))
    empty = np.zeros((0, 3, 8, 8), np.uint8)
    return PageViews(
        image_size=loaded, global_view=empty[:0].reshape(3, 0, 0), tiles=empty, grid=(1, 1)
    )


def marking(pixels: U8, folder: str) -> PageViews:
    """Leave a file named after the page's index."""
    Path(folder, str(pixels[0, 0, 0])).touch()
    return views(pixels)
