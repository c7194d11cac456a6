"""A rank: the process of one device. Reads its configuration and chunks, writes outcomes.

Started by `docr.distributed.accelerate` as `python -m docr.distributed.rank`. Both directions are
pickles on pipes between a process and its own child: nothing of a document travels on them.
"""

import logging
import os
import pickle
import queue
import signal
import sys
import threading
from typing import BinaryIO

from docr.distributed.accelerate import RankMessage, Want
from docr.errors import DocrError
from docr.pipeline import Pipeline, PipelineConfig
from docr.writer import Chunk

_POLL_SECONDS = 0.1


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
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a library's print must not reach the pipe

    def send(message: RankMessage) -> None:
        pickle.dump(message, output)
        output.flush()

    config: PipelineConfig = pickle.load(sys.stdin.buffer)
    chunks: queue.SimpleQueue[Chunk] = queue.SimpleQueue()
    with Pipeline(config) as pipeline:
        threading.Thread(target=_read_chunks, args=(sys.stdin.buffer, chunks), daemon=True).start()
        asked = False
        try:
            while True:
                if not asked and pipeline.wants():
                    send(Want())
                    asked = True
                if not (pipeline.pending and chunks.empty()):
                    pipeline.submit(chunks.get())
                    asked = False
                for message in pipeline.poll(_POLL_SECONDS):
                    send(message)
        except DocrError as error:
            send(error)


if __name__ == "__main__":
    logging.basicConfig(format="docr: %(message)s", level=logging.WARNING)
    main()
