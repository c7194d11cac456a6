"""One rank per device on this machine: each loads the model once and asks for chunks of pages.

The coordinator walks, resumes and finishes documents; a rank renders, recognises and writes the
pages it is handed. Ranks ask when they have room, so none waits for the slowest. They share
nothing but the output folder: no collective operation can hang because one of them died, and the
pages that a dead rank had in flight are handed to the others once more.
"""

import contextlib
import logging
import os
import pickle
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from docr.errors import DeviceError, DocrError
from docr.events import ModelReady, Notice
from docr.pdf.cage import DocumentInfo
from docr.pipeline import Message, PipelineConfig, open_cage
from docr.settings import Settings
from docr.types import PageFailure, PageRef, SourceFile
from docr.writer import Chunk, PageOutcome, PageWriter

log = logging.getLogger(__name__)

_MAX_TRIES = 2
"""A page that was in flight in this many ranks that died is not tried again."""

_END_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Want:
    """A rank has room for another chunk."""


@dataclass(frozen=True, slots=True)
class Died:
    """A rank's output has ended."""


RankMessage = Message | Want | Died | DocrError


@dataclass(slots=True, eq=False)
class _Rank:
    """A rank's process, and the chunk of each page it has in flight, by (folder, index)."""

    number: int
    process: "subprocess.Popen[bytes]"
    flight: dict[tuple[str, int], Chunk] = field(default_factory=dict)
    wants: bool = False
    alive: bool = True
    alone: bool = False  # it has a page in flight that another rank died over, and nothing else


class Ranks:
    """A `Workforce` of several pipelines, each in a process with a device of its own.

    Args:
        count: how many ranks.
        environ: what the ranks inherit.
    """

    def __init__(self, config: PipelineConfig, *, count: int, environ: Mapping[str, str]) -> None:
        threads = max(1, (os.cpu_count() or 1) // count)
        self._config = replace(config, engine=replace(config.engine, threads=threads))
        self._writer = PageWriter(
            config.settings, config.model, out=config.out, run_id=config.run_id
        )
        self._cage = open_cage(config.settings, workers=1)
        self._inbox: queue.SimpleQueue[tuple[_Rank, RankMessage]] = queue.SimpleQueue()
        self._messages: list[Message] = []
        self._again: deque[Chunk] = deque()
        self._deaths: dict[tuple[str, int], int] = {}
        self._closing = False
        self._ranks = [self._start(number, environ) for number in range(count)]

    def _start(self, number: int, environ: Mapping[str, str]) -> _Rank:
        process = subprocess.Popen(
            [sys.executable, "-m", "docr.distributed.rank"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=rank_environment(environ, number=number, device=self._config.engine.device),
            start_new_session=True,  # Ctrl-C is the coordinator's to handle
        )
        rank = _Rank(number, process)
        self._send(rank, self._config)
        threading.Thread(target=self._listen, args=(rank,), daemon=True).start()
        return rank

    def _listen(self, rank: _Rank) -> None:
        """Move a rank's messages into the inbox until its output ends."""
        assert rank.process.stdout is not None
        with rank.process.stdout as output, contextlib.suppress(EOFError, pickle.UnpicklingError):
            while True:
                self._inbox.put((rank, pickle.load(output)))
        self._inbox.put((rank, Died()))

    @staticmethod
    def _send(rank: _Rank, message: PipelineConfig | Chunk) -> None:
        assert rank.process.stdin is not None
        with contextlib.suppress(OSError):  # it has died: its listener says so
            pickle.dump(message, rank.process.stdin)
            rank.process.stdin.flush()

    def inspect(self, file: SourceFile, *, sizes: bool = False) -> DocumentInfo:
        """Count a document's pages; see `Workforce.inspect`."""
        return self._cage.inspect(file, sizes=sizes)

    @property
    def pending(self) -> int:
        """Pages submitted and not yet returned."""
        flying = sum(len(rank.flight) for rank in self._ranks)
        told = sum(isinstance(message, PageOutcome) for message in self._messages)
        return flying + told + len(self._again)

    def wants(self) -> bool:
        """Whether a rank has asked for work that no lost page needs first."""
        self._take_in(0.0)
        return not self._again and any(rank.wants and not rank.alone for rank in self._ranks)

    def submit(self, chunk: Chunk) -> None:
        """Hand a chunk to one of the ranks that asked: the one with the least in flight."""
        asking = (rank for rank in self._ranks if rank.wants and not rank.alone)
        self._hand(min(asking, key=lambda rank: len(rank.flight)), chunk)

    def _hand(self, rank: _Rank, chunk: Chunk) -> None:
        rank.wants = False
        rank.flight.update({(chunk.folder, index): chunk for index in chunk.indexes})
        self._send(rank, chunk)

    def poll(self, timeout: float) -> list[Message]:
        """Wait for ranks; see `Workforce.poll`.

        Raises:
            DeviceError: every rank has died.
        """
        if not self._messages:
            self._take_in(timeout)
        for rank in self._ranks:
            # Alone: should this rank die, too, it is known which page did it.
            if self._again and rank.wants and not rank.flight:
                self._hand(rank, self._again.popleft())
                rank.alone = True
        messages, self._messages = self._messages, []
        if not messages and not any(rank.alive for rank in self._ranks):
            raise DeviceError("every rank has died; --gpus 1 -v may show why")
        return messages

    def _take_in(self, timeout: float) -> None:
        """Take in all that ranks have said, waiting up to `timeout` for the first message.

        Raises:
            DocrError: what ended a rank ends the run.
        """
        while True:
            try:
                rank, message = self._inbox.get(timeout > 0, timeout or None)
            except queue.Empty:
                return
            timeout = 0.0
            match message:
                case Want():
                    rank.wants = True
                case Died():
                    self._bury(rank)
                case DocrError():
                    raise message
                case PageOutcome():
                    del rank.flight[message.folder, message.index]
                    rank.alone = rank.alone and bool(rank.flight)
                    self._messages.append(message)
                case ModelReady() if rank.number > 0:
                    log.info("rank %d: %s on %s", rank.number, message.model, message.device)
                case _:
                    self._messages.append(message)

    def _bury(self, rank: _Rank) -> None:
        """Hand the pages that a dead rank had in flight to the others, one by one, once more."""
        rank.alive = rank.wants = False
        if self._closing:
            return
        code = rank.process.wait()
        lost = f"{len(rank.flight)} pages in flight"
        self._messages.append(Notice(f"rank {rank.number} died ({code}), {lost}", warning=True))
        for key, chunk in rank.flight.items():
            index = key[1]
            self._deaths[key] = self._deaths.get(key, 0) + 1
            if self._deaths[key] < _MAX_TRIES:
                self._again.append(replace(chunk, indexes=(index,)))
                continue
            ref = PageRef(chunk.file.path, index)
            text = f"in flight in {_MAX_TRIES} ranks that died"
            failure = PageFailure(ref, "generate", "poison", text)
            self._messages.append(self._writer.failed(chunk, failure, seconds={}))
        rank.flight.clear()

    def close(self) -> None:
        """End the ranks: their input ends, and who has not left in time is killed."""
        self._closing = True
        for rank in self._ranks:
            assert rank.process.stdin is not None
            with contextlib.suppress(OSError):
                rank.process.stdin.close()
        deadline = time.monotonic() + _END_SECONDS
        for rank in self._ranks:
            try:
                rank.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                rank.process.kill()
                rank.process.wait()
        self._cage.close()


def rank_count(settings: Settings) -> int:
    """How many ranks a run has: --gpus, else one for each CUDA device that may be used.

    Raises:
        DeviceError: fewer CUDA devices are visible than asked for.
    """
    if settings.device not in ("auto", "cuda") or settings.engine is not None:
        return settings.gpus or 1
    from docr.engine.device import cuda_device_count  # torch: only where devices must be counted

    visible = cuda_device_count()
    if settings.gpus is None:
        return max(1, visible)
    if settings.gpus > max(1, visible):
        raise DeviceError(f"--gpus {settings.gpus}: only {visible} CUDA devices are visible")
    return settings.gpus


def rank_environment(environ: Mapping[str, str], *, number: int, device: str) -> dict[str, str]:
    """The environment of a rank: of the CUDA devices it sees its own, as cuda:0."""
    env = dict(environ)
    if device in ("auto", "cuda"):
        visible = [gpu for gpu in env.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
        env["CUDA_VISIBLE_DEVICES"] = visible[number] if visible else str(number)
    return env
