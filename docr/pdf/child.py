"""The rendering child: one process, one document.

Its life, the parent on the left:

    passes the input's descriptor
    sends the job                        -> {"hello": true, "sandbox": […]}, confined from now on
                                         -> {"page_count": …}: opened, or {"failed": …}: the end
    passes a memory's descriptor
    {"index": page, "rescue": …}         -> {"index": page, … header or "failed"}; as often as asked
    closes the socket, or kills

It may be asked for no page, and may wait for ever until it is.

Started by the fork server; or by itself (`python -m docr.pdf.child`, with its socket as standard
input), where the parent first says which transform to load.
"""

import base64
import importlib
import math
import mmap
import os
import pickle
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol, cast

import numpy as np
from PIL import Image

from docr.errors import InputError
from docr.pdf import replies, wire
from docr.pdf.images import ImageDocument
from docr.pdf.limits import alarm, confine, ignore_signals
from docr.pdf.render import PdfDocument, describe, is_blank, paper_colour
from docr.pdf.replies import DocumentInfo, RenderedPage
from docr.pdf.settings import SANDBOX, RenderSettings
from docr.pdf.sources import IMAGE_SUFFIXES, PDF_HEAD
from docr.pdf.wire import Channel, Message
from docr.types import U8, PageImage, PageRef, PageViews

try:
    from docr.pdf import pdfium
except ImportError:  # the extra is not installed
    pdfium = None  # type: ignore[assignment]

Transform = Callable[[U8], PageViews]

ALARM_GRACE_SECONDS = 5.0  # after the parent's own deadline
_HEAD_BYTES = 1024  # where a PDF may begin; Source: ISO 32000-1, annex H, note 13
_IMAGE_HEADS = (
    b"\x89PNG\r\n",
    b"\xff\xd8\xff",
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    b"MM\0+",
    b"BM",
    b"RIFF",
)
_GZIP_HEAD = b"\x1f\x8b"
_UNTOLD_PATH = Path()


class Document(Protocol):
    """An open document; one class for each engine."""

    page_count: int
    rendered_by: str
    warnings: tuple[str, ...]

    def size_px(self, index: int) -> tuple[int, int]:
        """(width, height) that a page would be rendered in, or zeros."""

    def render(self, ref: PageRef) -> PageImage:
        """One page as pixels."""


def load_transform(setup: Message) -> Transform:
    """Import the function that is run on every page, and bind its argument.

    What it needs is loaded now, by its module's `set_up` where there is one: once, and before this
    process is locked up.

    Args:
        setup: "transform": "module:function"; "argument": a pickle in base64, from the parent.
    """
    module, _, name = wire.line(setup["transform"]).partition(":")
    home = importlib.import_module(module)
    if hasattr(home, "set_up"):
        home.set_up()
    function = getattr(home, name)
    argument = pickle.loads(base64.b64decode(str(setup["argument"])))
    return lambda pixels: function(pixels, argument)


def serve(connection: socket.socket, transform: Transform) -> None:
    """Do one job and return; the parent may kill at any time."""
    channel = Channel(connection)
    try:
        source = channel.receive_descriptor()
        job = channel.receive() or {}
        settings = RenderSettings(**job["settings"])  # type: ignore[arg-type]
        patience = settings.page_timeout + ALARM_GRACE_SECONDS
        layers = confine(
            memory_bytes=settings.memory_limit + os.fstat(source).st_size,
            output_bytes=replies.page_bytes(settings),
            # For opening and for every page.
            cpu_seconds=math.ceil(
                patience * (1 + wire.integer(job["pages"], 0, replies.MAX_PAGES))
            ),
        )
        channel.send({"hello": True, "sandbox": layers})
        if settings.require_sandbox and SANDBOX not in layers:
            return  # the parent refuses as well
        try:
            with alarm(patience):
                data = map_source(source)
                document = open_document(
                    data,
                    str(job["suffix"]),
                    settings,
                    rescue=job["rescue"] is True,
                    verify=job["verify"] is True,
                )
                info = _info(document, sizes=job["sizes"] is True)
        except Exception as error:  # the cage's one broad catch, with the one in _page
            channel.send(replies.failure_message(*describe(error), stage="open"))
            return
        channel.send(replies.info_message(info))
        while True:
            memory = channel.receive_descriptor()
            request = channel.receive() or {}
            index = wire.integer(request["index"], 0, replies.MAX_PAGES)
            engine = partial(_engine, document, data, settings, rescue=request["rescue"] is True)
            with alarm(patience):
                reply = _page(engine, index, transform, memory)
            os.close(memory)
            channel.send(reply | {"index": index})
    except (EOFError, OSError):
        return  # the parent has what it wanted, or is gone


def map_source(descriptor: int) -> mmap.mmap:
    """A file as bytes.

    Mapped: MuPDF can jump about in any size of file, and memory stays flat. A file cut short
    meanwhile costs this process (SIGBUS) and no other.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise InputError("io-read", f"cannot be mapped: {error.strerror}") from error


def open_document(
    data: mmap.mmap,
    suffix: str,
    settings: RenderSettings,
    *,
    rescue: bool = False,
    verify: bool = False,
) -> Document:
    """Open a file by what its content is; the suffix only decides how to complain.

    Args:
        data: the file.
        suffix: of its name, in lower case.
        settings: limits, and the password.
        rescue: the first engine cannot open it: only try the second.
        verify: make sure of the pages, as far as it must be done for every file.

    Raises:
        InputError: it is neither a PDF nor an image of a known kind, or cannot be opened.
    """
    document = _open(data, suffix, settings, rescue=rescue, verify=verify)
    if verify and document.page_count > settings.max_pages:
        what = f"more than {settings.max_pages} pages (--max-pages-per-file)"
        raise InputError("too-many-pages", what)
    return document


def _open(
    data: mmap.mmap, suffix: str, settings: RenderSettings, *, rescue: bool, verify: bool
) -> Document:
    head = data[:_HEAD_BYTES]
    if suffix != ".pdf" and head.startswith(_IMAGE_HEADS):
        return ImageDocument(cast(BinaryIO, data), settings)  # it has all methods that Pillow uses
    if PDF_HEAD in head and not head.startswith(_GZIP_HEAD):
        return _open_pdf(data, settings, rescue=rescue, verify=verify)
    if suffix in IMAGE_SUFFIXES:
        raise InputError("unreadable", "not an image of a known kind, or damaged")
    raise InputError("not-a-pdf", "the file does not begin as a PDF does (no %PDF-)")


def _open_pdf(data: mmap.mmap, settings: RenderSettings, *, rescue: bool, verify: bool) -> Document:
    """By MuPDF; what it refuses, or finds no page in, by PDFium, where that is installed.

    Raises:
        InputError: MuPDF's, if neither can open it.
    """
    try:
        if rescue:
            raise InputError("unreadable", "left to the second engine")
        return PdfDocument(data, settings)
    except InputError as error:
        if pdfium is None or error.code not in ("unreadable", "no-pages"):
            raise
        with suppress(InputError):
            document = pdfium.PdfiumDocument(data, settings)
            if verify:
                document.verify()
            return document
        raise


def _engine(
    document: Document, data: mmap.mmap, settings: RenderSettings, *, rescue: bool
) -> Document:
    """Who renders a page: for one that crashed the first engine, the second, where there is one."""
    if rescue and pdfium is not None and isinstance(document, PdfDocument):
        return pdfium.PdfiumDocument(data, settings)
    return document


def _info(document: Document, *, sizes: bool) -> DocumentInfo:
    indexes = range(document.page_count if sizes else 0)
    return DocumentInfo(
        page_count=document.page_count,
        sizes_px=tuple(document.size_px(index) for index in indexes),
        rendered_by=document.rendered_by,
        warnings=document.warnings,
    )


def _page(engine: Callable[[], Document], index: int, transform: Transform, memory: int) -> Message:
    """Render and transform one page into its memory; the header, or why there is none."""
    stage, rendered_by = "render", None
    try:
        started = time.perf_counter()
        document = engine()
        rendered_by = document.rendered_by
        # No path: the parent knows it, and a child that is taken over need not.
        image = document.render(PageRef(_UNTOLD_PATH, index))
        blank = is_blank(image)
        rendered = time.perf_counter()
        stage = "prepare"
        views = None if blank else transform(image.pixels)
        page = RenderedPage(
            image=image,
            views=views,
            blank=blank,
            seconds=rendered - started,
            transform_seconds=time.perf_counter() - rendered,
        )
        paper = paper_colour(np.asarray(image.pixels)) if blank else None
        return replies.write_page(memory, page, paper)
    except Exception as error:
        code, message = describe(error)
        return replies.failure_message(code, message, stage=stage, rendered_by=rendered_by)


def prepare_process() -> None:
    """Set up an interpreter that will read untrusted documents (and nothing else)."""
    ignore_signals()
    Image.init()  # all plugins now: one import for many children, none after confinement
    Image.MAX_IMAGE_PIXELS = None  # RenderSettings.max_image_pixels is the limit


def main() -> None:
    """A child without a fork server."""
    prepare_process()
    connection = socket.socket(fileno=os.dup(0))
    setup = Channel(connection).receive()
    transform = load_transform(setup or {})
    silence()
    serve(connection, transform)


def silence() -> None:
    """Give libraries that print nowhere to print to."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    os.close(nowhere)


if __name__ == "__main__":
    main()
