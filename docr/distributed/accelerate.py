"""Ranks: processes that have a device each, load the model once and ask for chunks of pages.

The coordinator walks, resumes and finishes documents; a rank renders, recognises and writes the
pages it is handed. Ranks ask when they have room, so none waits for the slowest. They share
nothing but the output folder: no collective operation can hang because one of them died.

Devices fail, and a page may be what they fail over. A rank that dies, loses its device or says
nothing for too long is replaced by a new one; the pages that it had in flight are tried once more,
each alone, so that it is known which page did it.
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

from docr.errors import DeviceError, DocrError, FailureCode, OutOfMemory
from docr.events import ModelReady, Notice
from docr.pdf.cage import DocumentInfo
from docr.pdf.launch import KEEP_MEMORY
from docr.pipeline import Message, PipelineConfig
from docr.rendering import open_cage
from docr.settings import Settings
from docr.types import PageFailure, PageRef, SourceFile
from docr.writer import Chunk, PageOutcome, PageWriter

log = logging.getLogger(__name__)

_MAX_TRIES = 2
"""A page that was in flight in this many ranks that were lost is not tried again."""

_MAX_BARREN = 8
"""So many ranks lost in a row, with no page finished between, and the machine is at fault."""

_END_SECONDS = 5.0
_MOST_SILENT_SECONDS = 1.0
"""What one look at a rank adds to its silence: while we were stopped ourselves, it may not have
been silent at all."""


@dataclass(frozen=True, slots=True)
class Want:
    """A rank has room for another chunk."""


@dataclass(frozen=True, slots=True)
class Alive:
    """A rank has come to the end of a piece of work."""


@dataclass(frozen=True, slots=True)
class Logged:
    """What a rank has to log; `trace` is the traceback, for those who want to see it."""

    level: int
    text: str
    trace: str | None


@dataclass(frozen=True, slots=True)
class Died:
    """A rank's output has ended."""


RankMessage = Message | Want | Alive | Logged | Died | DocrError


@dataclass(slots=True, eq=False)
class _Rank:
    """A rank's process, and the chunk of each page it has in flight, by (folder, index)."""

    number: int
    process: "subprocess.Popen[bytes]"
    flight: dict[tuple[str, int], Chunk] = field(default_factory=dict)
    wants: bool = False
    alive: bool = True
    loaded: bool = False
    alone: bool = False  # it has a page in flight that another rank was lost over, and no other
    silent_seconds: float = 0.0
    code: FailureCode = "poison"  # of a page over which it is lost
    reason: str | None = None  # why it ended, where that is known


class Ranks:
    """A `Workforce` of pipelines, each in a process with a device of its own.

    Args:
        count: how many ranks.
        environ: what the ranks inherit.
    """

    def __init__(self, config: PipelineConfig, *, count: int, environ: Mapping[str, str]) -> None:
        if count > 1:
            threads = max(1, (os.cpu_count() or 1) // count)
            config = replace(config, engine=replace(config.engine, threads=threads))
        self._config = config
        self._environ = environ
        self._writer = PageWriter(
            config.settings, config.model, out=config.out, run_id=config.run_id
        )
        self._cage = open_cage(config.settings, workers=1)
        self._inbox: queue.SimpleQueue[tuple[_Rank, RankMessage]] = queue.SimpleQueue()
        self._messages: list[Message] = []
        self._again: deque[Chunk] = deque()
        self._losses: dict[tuple[str, int], int] = {}
        self._barren = 0
        self._ready = False
        self._looked = time.monotonic()
        self._closing = False
        self._ranks = [self._start(number) for number in range(count)]

    def _start(self, number: int) -> _Rank:
        device = self._config.engine.device
        process = subprocess.Popen(
            [sys.executable, "-m", "docr.distributed.rank"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=rank_environment(self._environ, number=number, device=device),
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
            DeviceError: no rank is left, or one after another is lost.
        """
        if not self._messages:
            self._take_in(timeout)
        self._end_the_silent()
        for rank in self._ranks:
            # Alone: should this rank be lost, too, it is known which page did it.
            if self._again and rank.wants and not rank.flight:
                self._hand(rank, self._again.popleft())
                rank.alone = True
        messages, self._messages = self._messages, []
        return messages

    def settle(self) -> list[Message]:
        """What ranks have said so far; see `Workforce.settle`."""
        self._closing = True  # whoever dies now is not replaced
        self._take_in(0.0)
        messages, self._messages = self._messages, []
        return messages

    def _take_in(self, timeout: float) -> None:
        """Take in all that ranks have said, waiting up to `timeout` for the first message.

        Raises:
            DocrError: what no other rank could do better.
        """
        while True:
            try:
                rank, message = self._inbox.get(timeout > 0, timeout or None)
            except queue.Empty:
                return
            timeout = rank.silent_seconds = 0.0
            match message:
                case Want():
                    rank.wants = True
                case Alive():
                    pass
                case Died():
                    self._bury(rank)
                case DeviceError():
                    rank.code = "out-of-memory" if isinstance(message, OutOfMemory) else "device"
                    rank.reason = str(message)
                case DocrError():
                    raise message
                case Logged():
                    log.log(message.level, "%s", message.text)
                    for line in (message.trace or "").splitlines():
                        log.info("  %s", line)
                case PageOutcome():
                    del rank.flight[message.folder, message.index]
                    rank.alone = rank.alone and bool(rank.flight)
                    self._barren = 0
                    self._messages.append(message)
                case ModelReady():
                    rank.loaded = True
                    if self._ready:
                        log.info("rank %d: %s on %s", rank.number, message.model, message.device)
                    else:
                        self._ready = True
                        self._messages.append(message)
                case _:
                    self._messages.append(message)

    def _end_the_silent(self) -> None:
        """Kill ranks that have had pages in flight for too long without a word."""
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, _MOST_SILENT_SECONDS), now
        for rank in self._ranks:
            if not (rank.alive and rank.loaded and rank.flight):
                continue
            rank.silent_seconds += passed
            limit = self._config.settings.stall_timeout
            if rank.silent_seconds > limit and rank.reason is None:
                rank.reason = f"no sign of life for {limit:g} s"
                rank.process.kill()

    def _bury(self, rank: _Rank) -> None:
        """See to the pages that a lost rank had in flight, and put a new one in its place.

        Raises:
            DeviceError: no rank is left, or one after another is lost.
        """
        rank.alive = rank.wants = False
        if self._closing:
            return
        code = rank.process.wait()
        reason = f"rank {rank.number} died: {rank.reason or f'exit status {code}'}"
        self._messages.append(Notice(f"{reason}; {len(rank.flight)} pages in flight", warning=True))
        if rank.loaded:
            for (folder, index), chunk in rank.flight.items():
                self._lose(folder, index, chunk, rank)
        else:  # no page is to blame
            for chunk in {id(chunk): chunk for chunk in rank.flight.values()}.values():
                self._again.append(chunk)
        rank.flight.clear()
        self._barren += 1
        if rank.loaded and self._barren < _MAX_BARREN:
            self._ranks[rank.number] = self._start(rank.number)
        elif rank.loaded:
            raise DeviceError(f"lost {self._barren} ranks and finished no page between: {reason}")
        elif not any(other.alive for other in self._ranks):
            raise DeviceError(f"the model cannot be loaded: {reason}")

    def _lose(self, folder: str, index: int, chunk: Chunk, rank: _Rank) -> None:
        """Try a page that a rank was lost over once more, alone, or give it up."""
        losses = self._losses[folder, index] = self._losses.get((folder, index), 0) + 1
        if losses < _MAX_TRIES:
            attempts = {index: chunk.attempts.get(index, 0) + losses}
            self._again.append(replace(chunk, indexes=(index,), attempts=attempts))
            return
        text = f"in flight in {losses} ranks that died"
        if rank.reason is not None:
            text += f": {rank.reason}"
        failure = PageFailure(PageRef(chunk.file.path, index), "generate", rank.code, text)
        self._messages.append(self._writer.failed(chunk, failure, seconds={}))

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

    0: none, the work is done in this process. That is for engines that stand in for a model, in
    tests of all that surrounds one.

    Raises:
        DeviceError: fewer CUDA devices are visible than asked for.
    """
    if settings.engine is not None:
        return settings.gpus or 0
    if settings.device not in ("auto", "cuda"):
        return settings.gpus or 1
    from docr.engine.device import cuda_device_count  # torch: only where devices must be counted

    visible = cuda_device_count()
    if settings.gpus is None:
        return max(1, visible)
    if settings.gpus > max(1, visible):
        raise DeviceError(f"--gpus {settings.gpus}: only {visible} CUDA devices are visible")
    return settings.gpus


def rank_environment(environ: Mapping[str, str], *, number: int, device: str) -> dict[str, str]:
    """The environment of a rank: of the CUDA devices it sees its own, as cuda:0.

    Memory is kept, in huge pages: decoding on a CPU reads gigabytes of weights for every token, and
    a step is a sixth shorter; a view takes a tenth less where nothing is cleared anew.
    """
    env = {"GLIBC_TUNABLES": KEEP_MEMORY, **environ}
    if device in ("auto", "cuda"):
        visible = [gpu for gpu in env.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
        env["CUDA_VISIBLE_DEVICES"] = visible[number] if visible else str(number)
    return env
