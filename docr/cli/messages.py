"""What docr says: results on stdout, everything else on stderr, one line an event."""

import contextlib
import logging
import os
import sys
from collections.abc import Callable

from docr.errors import OutputError
from docr.escape import escaped

EXIT_MEANINGS = {
    0: "all done",
    1: "internal error",
    2: "usage",
    3: "some files or pages failed",
    4: "not one page succeeded",
    5: "output cannot be written",
    6: "output is in use by another run",
    7: "model or device unavailable",
    8: "incompatible configuration or output folder",
    130: "interrupted",
    143: "terminated",
}


class StdoutClosed(OutputError):
    """Whoever read our stdout has had enough. Ends the program without a word."""


def count(number: int, noun: str) -> str:
    """A number with its noun: "1 page", "2 pages"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def occupy_standard_streams() -> None:
    """Put something harmless where we were started with closed streams, as by some daemons.

    The next file opened would otherwise get a closed stream's number, and what libraries print
    there would end up in a record. Standard input then is empty.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            lowest = os.open(os.devnull, os.O_RDWR)
            assert lowest == number, (lowest, number)
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)


def say(text: str) -> None:
    """Print one line on stderr. Nobody listening is no reason to stop working."""
    if sys.stderr is None:
        return
    encoding = sys.stderr.encoding or "utf-8"
    line = f"docr: {escaped(text)}".encode(encoding, "backslashreplace").decode(encoding)
    with contextlib.suppress(OSError, ValueError):  # full, or closed
        sys.stderr.write(line + "\n")  # in one piece: threads speak, and one may end the process
        sys.stderr.flush()


def emit(result: str | bytes) -> None:
    """Write a result to stdout.

    Raises:
        StdoutClosed: the reader is gone.
        OutputError: stdout cannot be written, such as a file on a full disk.
    """
    if sys.stdout is None:
        return
    try:
        # Bytes: text of a page may hold what the terminal's encoding lacks, and on Windows a
        # newline must stay one byte.
        data = result if isinstance(result, bytes) else result.encode("utf-8", "surrogateescape")
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        # What is still buffered would be tried again, and complained of, as Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise StdoutClosed("stdout is closed") from None
        raise OutputError(f"stdout cannot be written: {error.strerror}") from error


class LineHandler(logging.Handler):
    """Log records as lines of ours, tracebacks left out unless they are asked for."""

    def __init__(self, write: Callable[[str], None], *, verbose: bool) -> None:
        super().__init__(logging.INFO if verbose else logging.WARNING)
        self._write = write
        self._verbose = verbose

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record: its own message in one line, its traceback line by line."""
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            text = f"{'ERROR' if record.levelno >= logging.ERROR else 'warning'}: {text}"
        self._write(text)
        if self._verbose and record.exc_info:
            for line in logging.Formatter().formatException(record.exc_info).splitlines():
                self._write(f"  {line}")


def route_logging(write: Callable[[str], None], *, verbose: bool) -> None:
    """Send docr's log records to `write`; other libraries' and warnings only when verbose."""
    log = logging.getLogger("docr")
    log.handlers[:] = [LineHandler(write, verbose=verbose)]
    log.setLevel(logging.INFO if verbose else logging.WARNING)
    log.propagate = False
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").handlers[:] = [
        LineHandler(write, verbose=True) if verbose else logging.NullHandler()
    ]
    logging.getLogger("py.warnings").propagate = False
