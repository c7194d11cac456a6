"""Functions for the cage to run on each page, in its children: some good, some hostile.

They tell pages apart by the paper of `tests.pdfs.tinted_pages`: its red level is the page's index.
"""

import errno
import fcntl
import importlib
import json
import os
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable
from contextlib import suppress
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
    elif fault == "hold on":
        _hold_on()
    elif fault is not None:
        _say({"babble": b"\0\0\0\2[]", "flood": b"\xff" * 64, "lie": _LIE}[fault])
    return views(pixels)


_LIE_BODY = b'{"index": 1, "size": [60000, 60000], "page_pt": [1, 1], "dpi": 1, "paper": null}'
_LIE = len(_LIE_BODY).to_bytes(4, "big") + _LIE_BODY


def _hold_on() -> None:
    """Keep the parent from sealing the page's memory."""
    for descriptor in range(3, 64):
        with suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL)


def whose(pixels: U8, argument: object = None) -> PageViews:
    """Say in the size which process this is."""
    empty = np.zeros((0, 3, 8, 8), np.uint8)
    number = divmod(os.getpid(), 1 << 16)
    return PageViews(number, empty[:0].reshape(3, 0, 0), empty, grid=(1, 1))


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


class Mark:
    """A file that is opened where this is unpickled: before the child may open none."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.open, (str(self._path), os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def marking(pixels: U8, descriptor: int) -> PageViews:
    """Leave a byte for every page in the file of a Mark."""
    os.write(descriptor, b".")
    return views(pixels)


def escaping(pixels: U8, folder: str) -> PageViews:
    """Try to get out, and say in the global view, as JSON, how each attempt ended."""
    existing, fresh = Path(folder, "existing"), Path(folder, "fresh")
    attempts: dict[str, Callable[[], object]] = {
        "internet": lambda: socket.socket(socket.AF_INET),
        "datagram": lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM),
        "local socket": lambda: socket.socket(socket.AF_UNIX),
        "create": lambda: fresh.write_text("x"),
        "overwrite": lambda: existing.write_text("x"),
        "append": lambda: os.open(existing, os.O_RDWR | os.O_APPEND),
        "truncate": lambda: os.truncate(existing, 0),
        "delete": lambda: existing.unlink(),
        "rename": lambda: existing.rename(fresh),
        "mode": lambda: existing.chmod(0o777),
        "folder": lambda: fresh.mkdir(),
        "link": lambda: fresh.symlink_to(existing),
        "input": lambda: [_reopen(number) for number in range(3, 12)],
        "program": lambda: os.execv("/bin/true", ["true"]),
        "spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
        "fork": lambda: os.fork() or os._exit(0),
        "kill": lambda: os.kill(os.getppid(), 0),
        "secret": lambda: existing.read_text(),
    }
    told = json.dumps({name: _ends(attempt) for name, attempt in attempts.items()}).encode()
    view = np.frombuffer(told.ljust(3 * 64 * 64), np.uint8).reshape(3, 64, 64)
    return PageViews((1, 1), view, np.zeros((0, 3, 8, 8), np.uint8), grid=(1, 1))


def _reopen(descriptor: int) -> None:
    """Open for writing what was passed for reading."""
    with suppress(FileNotFoundError):
        os.close(os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR))


def _ends(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


def talkative(pixels: U8, argument: object = None) -> PageViews:
    """Print, as a library might, by Python and past it."""
    print("from the child", flush=True)
    print("from the child", file=sys.stderr, flush=True)
    for standard in (1, 2):
        os.write(standard, b"from the child\n")
    return views(pixels)
