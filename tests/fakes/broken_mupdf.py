"""A MuPDF that comes to grief, for the children of a cage: its `transform_arg`.

    Cage(settings, transform="tests.fakes.transforms:faulty", transform_arg=BrokenMupdf("crash"))

It breaks where it is unpickled: in the process that the children are forked from.
"""

import os
import signal
import time
from collections.abc import Mapping

import pymupdf


class BrokenMupdf:
    """How opening any document ends ("crash", "hang", "refuse"), and drawing which of its pages.

    `faults` are for the transform `faulty`.
    """

    def __init__(
        self,
        opening: str | None = None,
        *,
        pages: Mapping[int, str] | None = None,
        faults: Mapping[int, str] | None = None,
    ) -> None:
        self._arguments = (opening, dict(pages or {}), dict(faults or {}))

    def __reduce__(self) -> tuple[object, ...]:
        return _break, self._arguments


def _break(opening: str | None, pages: Mapping[int, str], faults: dict[int, str]) -> dict[int, str]:
    real_open, real_pixmap = pymupdf.open, pymupdf.Page.get_pixmap

    def open_document(*args: object, **kwargs: object) -> pymupdf.Document:
        _come_to_grief(opening)
        return real_open(*args, **kwargs)

    def get_pixmap(page: pymupdf.Page, **kwargs: object) -> pymupdf.Pixmap:
        _come_to_grief(pages.get(page.number))
        return real_pixmap(page, **kwargs)

    pymupdf.open, pymupdf.Page.get_pixmap = open_document, get_pixmap
    return faults


def _come_to_grief(fault: str | None) -> None:
    if fault == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif fault == "refuse":
        raise RuntimeError("refused")
    while fault == "hang":
        time.sleep(1)
