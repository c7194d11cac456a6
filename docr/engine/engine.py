"""The engine: pages in, text out, many at a time.

    add() -> waiting -> admitted -> vision -> prefill -> decode … -> Completion or PageFailure

`step()` does the next piece of work: one batch of views, one batch of prompts, or a few tokens for
every running page. Nothing here imports torch: what needs it is in the runner.
"""

import logging
import math
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol

from docr.engine.config import EngineConfig, EngineInfo
from docr.engine.detokenize import Detokenizer
from docr.engine.drafts import Drafter
from docr.engine.loops import find_loop
from docr.engine.scheduler import BatchLimit, Scheduler
from docr.engine.sequence import Sequence, View, views_of
from docr.errors import FailureCode, OutOfMemory
from docr.types import Completion, FinishReason, PageFailure, PageInputs

if TYPE_CHECKING:
    from docr.engine.runner import Runner
    from docr.engine.sampling import Picks

log = logging.getLogger(__name__)

DECODE_TOKENS = 8
"""Tokens per running page in one step(); fewer when a page finishes, so that another can start."""

STEP_SECONDS = 1.0
"""Fewer also when they take longer than this: between two steps is where a run can be stopped."""

LOOP_INTERVAL = 16
"""A page is looked at for repetition whenever its text is a multiple of this many tokens."""

PREFILL_PADDING = 0.25


class Engine(Protocol):
    """Whatever turns pages into text."""

    info: EngineInfo

    def wants(self) -> int:
        """Pages it would take now; 0: it has enough."""
        ...

    def add(self, inputs: PageInputs) -> None:
        """Take a page. It comes back from `step()` exactly once."""
        ...

    @property
    def pending(self) -> int:
        """Pages added and not yet returned."""
        ...

    def step(self) -> list[Completion | PageFailure]:
        """Do some work; return the pages it has finished, often none.

        Raises:
            DeviceError: the device is lost, and the pending pages with it.
        """
        ...

    def close(self) -> None:
        """Give back all that it holds."""
        ...


class ModelEngine:
    """DeepSeek-OCR on one device, with continuous batching. Implements Engine."""

    def __init__(self, config: EngineConfig, runner: "Runner", detokenizer: Detokenizer) -> None:
        self.info = EngineInfo(
            model_name=config.model_name,
            revision=config.revision,
            device=str(runner.device),
            dtype=config.precision(str(runner.dtype).removeprefix("torch.")),
            tokenizer_file=detokenizer.path,
            max_batch_pages=runner.max_pages,
        )
        self._config = config
        self._runner = runner
        self._detokenizer = detokenizer
        self._scheduler = Scheduler(
            max_pages=runner.max_pages,
            cache_tokens=runner.cache_tokens,
            in_blocks=runner.in_blocks,
        )
        self._vision_limit = BatchLimit(runner.limits.vision_pixels)
        self._prefill_limit = BatchLimit(runner.limits.prefill_tokens)
        self._views: deque[View] = deque()  # of admitted pages, largest first
        self._prompts: deque[Sequence] = deque()  # admitted, not prefilled; longest first
        self._done: list[Completion | PageFailure] = []
        self._arrivals = 0

    def wants(self) -> int:
        """Pages it would take now: enough to run, and a short line of waiting ones."""
        return self._scheduler.wanted

    def add(self, inputs: PageInputs) -> None:
        """Put a page at the end of the line."""
        page = self._sequence(inputs)
        self._arrivals += 1
        if page.max_new_tokens < 1:
            self._give_up(
                page,
                "too-large",
                f"the prompt has {len(inputs.input_ids)} tokens, of {self._runner.context} that "
                "prompt and text may have; choose a shorter prompt",
            )
        else:
            self._scheduler.add(page)

    def _sequence(self, inputs: PageInputs) -> Sequence:
        room = self._runner.context - len(inputs.input_ids)
        return Sequence(
            ref=inputs.ref,
            input_ids=inputs.input_ids,
            image_mask=inputs.image_mask,
            views=inputs.views,
            max_new_tokens=min(room, self._config.max_tokens or room),
            arrival=self._arrivals,
            drafter=Drafter(inputs.layer_ids.tolist()) if self._config.drafts else None,
        )

    @property
    def pending(self) -> int:
        """Pages added and not yet returned."""
        return self._scheduler.pending + len(self._done)

    def step(self) -> list[Completion | PageFailure]:
        """Do one batch of the next stage that has work; see Engine."""
        if not self._views and not self._prompts:
            self._admit()
        if self._views:
            self._encode()
        elif self._prompts:
            self._prefill()
        elif self._scheduler.running:
            self._decode()
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        """Give the device's memory back."""
        self._runner.close()

    def _admit(self) -> None:
        admitted, too_large = self._scheduler.admit()
        for page in too_large:
            self._give_up_for_memory(page, f"the KV cache holds {self._scheduler.cache_tokens}")
        if admitted:
            self._runner.arrange(self._scheduler.running, self._scheduler.row_length)
            views = [view for page in admitted for view in views_of(page)]
            self._views.extend(sorted(views, key=lambda view: -view.area_px))
            self._prompts.extend(sorted(admitted, key=lambda page: -page.length))

    def _encode(self) -> None:
        started = time.perf_counter()
        batch = self._vision_limit.take(self._views, lambda view: view.area_px, padding=0)
        try:
            self._runner.encode(batch)
        except OutOfMemory as error:
            problem = str(error)
        else:
            seconds = time.perf_counter() - started
            for view in batch:
                view.page.spend("vision", seconds / len(batch))
            return
        self._after_out_of_memory("vision", problem)
        if len(batch) == 1:
            self._give_up_for_memory(batch[0].page, problem)
        else:
            self._vision_limit.halve(sum(view.area_px for view in batch))
            self._views.extendleft(reversed(batch))

    def _prefill(self) -> None:
        started = time.perf_counter()
        batch = self._prefill_limit.take(
            self._prompts, lambda page: page.length, padding=PREFILL_PADDING
        )
        try:
            picks = self._runner.prefill(batch)
        except OutOfMemory as error:
            problem = str(error)
        else:
            self._share("prefill", batch, started)
            for page, token, logprob in zip(batch, picks.token_ids, picks.logprobs, strict=True):
                self._append(page, token, logprob)
            return
        self._after_out_of_memory("prefill", problem)
        if len(batch) == 1:
            self._give_up_for_memory(batch[0], problem)
        else:
            self._prefill_limit.halve(len(batch) * batch[0].length)
            self._prompts.extendleft(reversed(batch))

    def _decode(self) -> None:
        # A call more: the last one may begin a token before the reserve's end.
        for page in self._scheduler.reserve(DECODE_TOKENS + self._runner.ahead):
            self._give_up_for_memory(page, f"the KV cache holds {self._scheduler.cache_tokens}")
        self._runner.arrange(self._scheduler.running, self._scheduler.row_length)
        begun = time.perf_counter()
        begins = {id(page): page.length for page in self._scheduler.running}
        while True:
            started = time.perf_counter()
            batch = list(self._scheduler.running)
            if not batch:
                return
            try:
                picks = self._runner.decode(batch)
            except OutOfMemory as error:
                problem = str(error)
            else:
                self._share("decode", batch, started)
                finished = [
                    self._accept(page, found) for page, found in zip(batch, picks, strict=True)
                ]
                longest = max(page.length - begins[id(page)] for page in batch)
                late = time.perf_counter() - begun > STEP_SECONDS
                if any(finished) or late or longest >= DECODE_TOKENS:
                    return
                continue
            self._after_out_of_memory("decode", problem)
            if len(batch) == 1:
                self._give_up_for_memory(batch[0], problem)
            else:
                self._scheduler.halve()
            return

    def _accept(self, page: Sequence, picks: "Picks") -> bool:
        """Append what was picked, up to the page's end; whether it is finished."""
        pairs = zip(picks.token_ids, picks.logprobs, strict=True)
        return any(self._append(page, token, logprob) for token, logprob in pairs)

    def _append(self, page: Sequence, token: int, logprob: float) -> bool:
        """Append a picked token; whether the page is finished by that."""
        if not math.isfinite(logprob):
            message = f"the model computed no number in {self.info.dtype}; try another --dtype"
            self._give_up(page, "internal", message)
            return True
        page.append(token, logprob)
        return self._finish(page)

    def _finish(self, page: Sequence) -> bool:
        """Complete the page if its text has come to an end; whether it has."""
        ids = page.token_ids
        at_limit = len(ids) >= page.max_new_tokens
        kept = len(ids)
        reason: FinishReason | None = None
        if ids[-1] == self._detokenizer.eos_id:
            kept, reason = len(ids) - 1, "stop"
        elif self._config.loop_stop and (at_limit or len(ids) % LOOP_INTERVAL == 0):
            loop = find_loop(ids, table_ids=self._detokenizer.table_ids)
            if loop is not None:
                kept, reason = loop, "repetition"
        if reason is None and at_limit:
            reason = "length"
        if reason is None:
            return False
        self._scheduler.remove(page)
        self._runner.forget(page)
        self._done.append(
            Completion(
                ref=page.ref,
                token_ids=tuple(ids),
                text=self._detokenizer.text(ids[:kept]),
                finish_reason=reason,
                mean_logprob=page.logprob_sum / len(ids),
                min_logprob=page.logprob_min,
                drafted=page.drafter.drafted if page.drafter else 0,
                accepted=page.drafter.accepted if page.drafter else 0,
                seconds=page.seconds,
            )
        )
        return True

    def _share(self, stage: str, batch: list[Sequence], started: float) -> None:
        seconds = time.perf_counter() - started
        for page in batch:
            page.spend(stage, seconds / len(batch))

    def _after_out_of_memory(self, stage: str, problem: str) -> None:
        # Only now, with the exception gone, can the memory of the failed attempt be had again.
        self._runner.release_memory()
        log.warning("out of memory in %s, going on with less at once: %s", stage, problem)

    def _give_up_for_memory(self, page: Sequence, problem: str) -> None:
        self._give_up(
            page, "out-of-memory", f"a page of {page.length} tokens does not fit: {problem}"
        )

    def _give_up(self, page: Sequence, code: FailureCode, message: str) -> None:
        """Return a page as failed, and forget it wherever it is."""
        if page in self._scheduler.running:
            self._scheduler.remove(page)
        self._views = deque(view for view in self._views if view.page is not page)
        self._prompts = deque(other for other in self._prompts if other is not page)
        self._runner.forget(page)
        self._done.append(PageFailure(page.ref, "generate", code, message))
