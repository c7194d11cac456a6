"""Engines without a model, for tests of all that surrounds one; none of them loads torch.

Chosen by name: `docr convert --engine tests.fakes.engines:echo ...`. Those that misbehave do so on
pages with the number 3, so that there are pages before and after.
"""

import hashlib
import os
import resource
import signal
import sys
import time
from collections import deque
from dataclasses import replace
from functools import cache
from pathlib import Path

import psutil
from tokenizers import Tokenizer

from docr.engine.config import EngineConfig, EngineInfo
from docr.errors import DeviceError, OutOfMemory
from docr.types import Completion, PageFailure, PageInputs
from tests.fakes.tokenizer import tokenizer_file

BAD_NUMBER = 3  # 1-based
PAGES_AT_ONCE = 8
SLOW_S = 0.03
BABBLE_BYTES = 1_000_000

EOS = "<｜end▁of▁sentence｜>"


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(tokenizer_file()))


def fingerprint(inputs: PageInputs) -> str:
    """The same for the same pixels and prompt, and for nothing else."""
    digest = hashlib.sha256(inputs.views.global_view.tobytes())
    digest.update(inputs.views.tiles.tobytes())
    digest.update(inputs.input_ids.tobytes())
    return digest.hexdigest()


def page_text(inputs: PageInputs) -> str:
    """What `echo` reads on a page, in the model's grammar."""
    return (
        f"<|ref|>title<|/ref|><|det|>[[99, 52, 871, 101]]<|/det|>\n"
        f"# page {inputs.ref.number}\n\n"
        f"<|ref|>text<|/ref|><|det|>[[99, 120, 871, 873]]<|/det|>\n"
        f"{fingerprint(inputs)}  "
    )


class EchoEngine:
    """Takes pages in order, a few at once, and returns them one by one. Implements Engine."""

    def __init__(self, config: EngineConfig) -> None:
        batch_pages = config.batch_size or PAGES_AT_ONCE
        self.info = EngineInfo(
            model_name=config.model_name,
            revision=config.revision,
            device="cpu",
            dtype="float32",
            tokenizer_file=tokenizer_file(),
            max_batch_pages=batch_pages,
        )
        self._pages: deque[PageInputs] = deque()

    def wants(self) -> int:
        return max(0, self.info.max_batch_pages + 2 - len(self._pages))

    def add(self, inputs: PageInputs) -> None:
        assert len(inputs.input_ids) == len(inputs.image_mask)
        self._pages.append(inputs)

    @property
    def pending(self) -> int:
        return len(self._pages)

    def step(self) -> list[Completion | PageFailure]:
        return [self.read(self._pages.popleft())] if self._pages else []

    def close(self) -> None:
        self._pages.clear()

    def read(self, inputs: PageInputs) -> Completion | PageFailure:
        text = page_text(inputs)
        ids = tokenizer().encode(text + EOS, add_special_tokens=False).ids
        return Completion(
            ref=inputs.ref,
            token_ids=tuple(ids),
            text=text,
            finish_reason="stop",
            mean_logprob=-0.125,
            min_logprob=-0.5,
            seconds={"vision": 0.001, "prefill": 0.001, "decode": 0.001},
        )


class SlowEchoEngine(EchoEngine):
    def read(self, inputs: PageInputs) -> Completion | PageFailure:
        time.sleep(SLOW_S)
        return super().read(inputs)


class CrashEngine(EchoEngine):
    """Dies as a process does that the system kills: no clean-up, no message."""

    def read(self, inputs: PageInputs) -> Completion | PageFailure:
        if inputs.ref.number == BAD_NUMBER:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(inputs)


class HangEngine(EchoEngine):
    def read(self, inputs: PageInputs) -> Completion | PageFailure:
        while inputs.ref.number == BAD_NUMBER:
            time.sleep(0.1)
        return super().read(inputs)


class BabbleEngine(EchoEngine):
    """Never comes to an end: a megabyte of dots on every page."""

    def read(self, inputs: PageInputs) -> Completion | PageFailure:
        dots = "." * BABBLE_BYTES
        (dot,) = tokenizer().encode(".", add_special_tokens=False).ids
        ids = (dot,) * BABBLE_BYTES
        return Completion(inputs.ref, ids, dots, "length", -0.01, -0.01, {"decode": 0.1})


class OutOfMemoryEngine(EchoEngine):
    """Has no room for every third page."""

    def read(self, inputs: PageInputs) -> Completion | PageFailure:
        if inputs.ref.number % BAD_NUMBER == 0:
            message = "a page of 120 tokens does not fit: fake memory is full"
            return PageFailure(inputs.ref, "generate", "out-of-memory", message)
        return super().read(inputs)


class LostDeviceEngine(EchoEngine):
    def read(self, inputs: PageInputs) -> Completion | PageFailure:
        if inputs.ref.number == BAD_NUMBER:
            raise DeviceError("cuda:0 failed: fake device fell off the bus")
        return super().read(inputs)


class BuggyEngine(EchoEngine):
    """Has an error of its own in it, which one page brings out."""

    def read(self, inputs: PageInputs) -> Completion | PageFailure:
        if inputs.ref.number == BAD_NUMBER:
            raise RuntimeError("a line\n\x1b[31mand another")
        return super().read(inputs)


class HoardingEngine(EchoEngine):
    """Fills the process's memory over one page; it may have 512 MB more than it has."""

    def read(self, inputs: PageInputs) -> Completion | PageFailure:
        if inputs.ref.number == BAD_NUMBER:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * os.sysconf("SC_PAGE_SIZE") + (512 << 20)
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            hoard = []
            while True:
                hoard.append(bytearray(64 << 20))
        return super().read(inputs)


class CrowdedEngine(EchoEngine):
    """Has room for a page only if it has read no other before: what it forgot to give back."""

    _crowded = False

    def read(self, inputs: PageInputs) -> Completion | PageFailure:
        if inputs.ref.number == BAD_NUMBER and self._crowded:
            raise OutOfMemory("fake memory is full")
        self._crowded = True
        return super().read(inputs)


class RepeatingEngine(EchoEngine):
    def read(self, inputs: PageInputs) -> Completion | PageFailure:
        done = super().read(inputs)
        assert isinstance(done, Completion)
        return replace(done, finish_reason="repetition")


class HostileEngine(EchoEngine):
    """Reads pages that were made to harm whoever opens the result."""

    def read(self, inputs: PageInputs) -> Completion | PageFailure:
        done = super().read(inputs)
        assert isinstance(done, Completion)
        return replace(done, text=HOSTILE_TEXT)


HOSTILE_TEXT = (
    "<|ref|>image<|/ref|><|det|>[[1, 2, 300, 400]]<|/det|>\n"
    "![x](../../../etc/passwd) <img src=http://example.com/a.png>\n"
    "<|ref|>../../../tmp/docr_pwned<|/ref|><|det|>[[1, 2, 300, 400]]<|/det|>\n"
    "<script>alert(1)</script> [x](javascript:alert(1)) \x1b[31m\u202etxt\n"
    "<|ref|>text<|/ref|><|det|>__import__('os').system('touch docr_pwned')<|/det|>\n"
    "<table><tr><td onclick=x>a</td></tr></table>\n<!-- page 2 -->"
)


def fails_to_load(config: EngineConfig) -> EchoEngine:
    """Has a device too small for the model, in every rank."""
    if in_a_rank():
        raise OutOfMemory("fake memory is too small for the weights")
    return EchoEngine(config)


def first_fails_to_load(config: EngineConfig) -> EchoEngine:
    """The same in the first rank alone; the others load once the coordinator has buried it.

    Else they might have read every page before it dies, and nobody would be told of it.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "0":
        return fails_to_load(config)
    if in_a_rank():  # the coordinator makes an engine as well, to ask which model it is
        while any(dead_or_first(child) for child in psutil.Process(os.getppid()).children()):
            time.sleep(0.01)
    return EchoEngine(config)


def dead_or_first(process: psutil.Process) -> bool:
    try:
        return (
            process.status() == psutil.STATUS_ZOMBIE
            or process.environ().get("CUDA_VISIBLE_DEVICES") == "0"
        )
    except psutil.NoSuchProcess:
        return False


def in_a_rank() -> bool:
    return "docr.distributed.rank" in sys.orig_argv


echo = EchoEngine
slow_echo = SlowEchoEngine
crash = CrashEngine
hang = HangEngine
babble = BabbleEngine
out_of_memory = OutOfMemoryEngine
raises = LostDeviceEngine
bug = BuggyEngine
hoard = HoardingEngine
crowded = CrowdedEngine
repeats = RepeatingEngine
hostile = HostileEngine
