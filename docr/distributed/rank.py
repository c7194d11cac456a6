"""A rank: the process of one device. Reads its configuration and chunks, writes outcomes.

Started by `docr.distributed.accelerate` as `python -m docr.distributed.rank`. Both directions are
pickles on pipes between a process and its own child: nothing of a document travels on them.
"""

import logging
import os
import pickle
import queue
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import BinaryIO

from docr.distributed.accelerate import Alive, Logged, RankMessage, Want
from docr.errors import DocrError
from docr.pdf.limits import ignore_signals
from docr.pipeline import Pipeline, PipelineConfig
from docr.writer import Chunk

_POLL_SECONDS = 0.1
_ALIVE_SECONDS = 1.0

log = logging.getLogger("docr.distributed.rank")  # __name__ is "__main__" here


class _Outbox:
    """The pipe to the coordinator; threads may share it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._sent = time.monotonic()

    def send(self, message: RankMessage) -> None:
        """Send a message in one piece."""
        with self._lock:
            pickle.dump(message, self._stream)
            self._stream.flush()
            self._sent = time.monotonic()

    def say_alive(self) -> None:
        """Send a sign of life, unless there was one just now."""
        if time.monotonic() - self._sent > _ALIVE_SECONDS:
            self.send(Alive())


class _SendingHandler(logging.Handler):
    """Log records for the coordinator, whose terminal it is."""

    def __init__(self, send: Callable[[RankMessage], None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record, its traceback apart."""
        trace = logging.Formatter().formatException(record.exc_info) if record.exc_info else None
        # Libraries' warnings are for those who ask for more.
        level = logging.INFO if record.name == "py.warnings" else record.levelno
        self._send(Logged(level, record.getMessage(), trace))


def _route_logging(send: Callable[[RankMessage], None]) -> None:
    """Send what docr, warnings and the error that ends this process have to say."""
    for name, level in (("docr", logging.INFO), ("py.warnings", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers[:] = [_SendingHandler(send)]
        logger.setLevel(level)
        logger.propagate = False
    logging.captureWarnings(True)

    def last_words(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        log.error("%s: %s", kind.__name__, error, exc_info=(kind, error, trace))

    sys.excepthook = last_words


def _read_chunks(stream: BinaryIO, chunks: "queue.SimpleQueue[Chunk]") -> None:
    """Pass on chunks; when the coordinator ends or dies, so does this process, at once.

    What is in flight is dropped: a page has a whole record or none, so nothing is torn.
    """
    while True:
        try:
            chunks.put(pickle.load(stream))
        except (EOFError, OSError, pickle.UnpicklingError):
            os._exit(0)


def main() -> None:
    """Work on chunks until the input ends."""
    ignore_signals()
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a library's print must not reach the pipe

    outbox = _Outbox(output)
    _route_logging(outbox.send)
    config: PipelineConfig = pickle.load(sys.stdin.buffer)
    chunks: queue.SimpleQueue[Chunk] = queue.SimpleQueue()
    with Pipeline(config) as pipeline:
        threading.Thread(target=_read_chunks, args=(sys.stdin.buffer, chunks), daemon=True).start()
        asked = False
        try:
            while True:
                if not asked and pipeline.wants():
                    outbox.send(Want())
                    asked = True
                if not (pipeline.pending and chunks.empty()):
                    pipeline.submit(chunks.get())
                    asked = False
                for message in pipeline.poll(_POLL_SECONDS):
                    outbox.send(message)
                outbox.say_alive()
        except DocrError as error:
            outbox.send(error)


if __name__ == "__main__":
    main()
