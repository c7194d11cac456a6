"""How the parent and a rendering child talk: small JSON objects over a stream socket.

A frame is a length (4 bytes, big-endian) and that many bytes of JSON. The parent never trusts a
frame: a hostile document may have taken the child over. So nothing is unpickled, sizes are
bounded before anything is read, and every field is fetched through a check.
"""

import json
import socket
import struct
from typing import NoReturn

from docr.types import Affine

Message = dict[str, object]

MAX_FRAME_BYTES = 64 << 20  # page sizes of a document with millions of pages
_MAX_LINE = 300  # characters of one line of text from a child
_MAX_LINES = 20
_LENGTH = struct.Struct(">I")
# Not to die of SIGPIPE where the command line gave it back its default.
_SEND_FLAGS = getattr(socket, "MSG_NOSIGNAL", 0)


class WireError(Exception):
    """The other side sent what the protocol does not allow."""


class Channel:
    """One end of the conversation; owns its socket, which may be blocking or not."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._partial = bytearray()

    def fileno(self) -> int:
        """The socket's descriptor, for selectors."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def send(self, message: Message) -> None:
        """Send one object.

        Raises:
            OSError: the other side is gone, or does not read.
        """
        body = json.dumps(message).encode("ascii")
        self._socket.sendall(_LENGTH.pack(len(body)) + body, _SEND_FLAGS)

    def receive(self) -> Message | None:
        """Take one object; None when a non-blocking socket does not hold a whole one yet.

        Reads no byte beyond the frame, so that a selector sees whether another waits.

        Raises:
            EOFError: the other side is gone.
            WireError: what came is no frame.
        """
        while True:
            want = _LENGTH.size
            if len(self._partial) >= want:
                (length,) = _LENGTH.unpack_from(self._partial)
                if length > MAX_FRAME_BYTES:
                    raise WireError(f"frame of {length} bytes")
                want += length
                if len(self._partial) == want:
                    body, self._partial = self._partial[_LENGTH.size :], bytearray()
                    return _decode(body)
            try:
                chunk = self._socket.recv(want - len(self._partial))
            except BlockingIOError:
                return None
            except ConnectionError as error:
                raise EOFError("connection lost") from error
            if not chunk:
                raise EOFError("connection closed")
            self._partial += chunk

    def send_descriptor(self, descriptor: int) -> None:
        """Pass an open file; it comes before the next frame."""
        socket.send_fds(self._socket, [b"F"], [descriptor], _SEND_FLAGS)

    def receive_descriptor(self) -> int:
        """Take what send_descriptor passed; the caller closes it.

        Raises:
            EOFError: the other side is gone.
        """
        _, descriptors, _, _ = socket.recv_fds(self._socket, 1, 1)
        if not descriptors:
            raise EOFError("connection closed")
        return descriptors[0]


def _decode(body: bytearray) -> Message:
    try:
        value = json.loads(body, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise WireError("not JSON") from error
    if not isinstance(value, dict):
        raise WireError("not an object")
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)  # NaN and Infinity, which JSON does not have


def integer(value: object, low: int, high: int) -> int:
    """A checked integer, ends included. Raises WireError."""
    if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
        return value
    raise WireError(f"expected an integer from {low} to {high}")


def number(value: object) -> float:
    """A checked finite number. Raises WireError."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300:
        return float(value)
    raise WireError("expected a number")


def items(value: object, count: int) -> list[object]:
    """A list of so many things. Raises WireError."""
    if isinstance(value, list) and len(value) == count:
        return value
    raise WireError(f"expected a list of {count}")


def pair(value: object) -> tuple[float, float]:
    """Two checked numbers. Raises WireError."""
    x, y = items(value, 2)
    return number(x), number(y)


def affine(value: object) -> Affine:
    """A checked transform. Raises WireError."""
    a, b, c, d, e, f = (number(item) for item in items(value, 6))
    return a, b, c, d, e, f


def text(value: object, longest: int) -> str:
    """Text of at most so many characters, whatever they are. Raises WireError."""
    if isinstance(value, str) and len(value) <= longest:
        return value
    raise WireError(f"expected a text of at most {longest} characters")


def line(value: object) -> str:
    """Text as one printable line of bounded length. Raises WireError."""
    if isinstance(value, str):
        return clean_line(value)
    raise WireError("expected a text")


def lines(value: object) -> tuple[str, ...]:
    """Texts, each one printable line; no more than _MAX_LINES. Raises WireError."""
    if isinstance(value, list):
        return tuple(line(item) for item in value[:_MAX_LINES])
    raise WireError("expected texts")


def clean_line(text: str) -> str:
    """Make one printable line of bounded length out of any text."""
    text = " ".join(text[: 4 * _MAX_LINE].split())
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return text if len(text) <= _MAX_LINE else text[: _MAX_LINE - 1] + "…"


def clean_lines(text: str) -> tuple[str, ...]:
    """The same for many lines: each once, the first _MAX_LINES of them."""
    found: dict[str, None] = {}
    for raw in text[: 100 * _MAX_LINE * _MAX_LINES].splitlines():
        if cleaned := clean_line(raw):
            found.setdefault(cleaned)
        if len(found) == _MAX_LINES:
            break
    return tuple(found)
