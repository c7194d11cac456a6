"""docr's own engine, made countable: texts of given lengths, experts and drafts counted."""

import hashlib
import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from docr.bench.spec import BenchSpec
from docr.engine.config import EngineConfig
from docr.engine.detokenize import Detokenizer
from docr.engine.device_loop import DeviceLoop
from docr.engine.engine import ModelEngine
from docr.engine.model.config import ModelConfig
from docr.engine.model.decoder import MoE
from docr.engine.model.deepseek_ocr import DeepseekOCR
from docr.engine.model.native import NativeDecoder
from docr.engine.runner import Runner
from docr.engine.sampling import Picks
from docr.engine.sequence import Sequence
from docr.errors import DocrError
from docr.modes.prompt import Prompter
from docr.types import Completion, PageFailure, PageInputs

PARTS = 256
"""Of the vocabulary, when a token is drawn."""

PART_WORDS = 12
HEADING_EVERY, TABLE_EVERY = 9, 13
"""Of so many words of a text layer, which become headings and rows of tables in a given text."""


def random_model(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> DeepseekOCR:
    """The network with normal weights of deviation 0.02 (norms: one), made on the device."""
    with torch.device("meta"):
        model = DeepseekOCR(config)
    model = model.to(dtype).to_empty(device=device)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                weight.fill_(1.0)
            else:
                weight.normal_(std=0.02)
    return model.eval().requires_grad_(False)


def given_text(layer: str, changed: float, seed: str) -> str:
    """A text layer as a model might write it: marked up, and with some characters changed."""
    rng = random.Random(seed)
    letters = [
        rng.choice("abcdefghij") if char.isalnum() and rng.random() < changed else char
        for char in layer
    ]
    words = "".join(letters).split()
    parts = []
    for number, start in enumerate(range(0, len(words), PART_WORDS), 1):
        part = words[start : start + PART_WORDS]
        text = " ".join(part)
        if number % TABLE_EVERY == 0:
            cells = "".join(f"<td>{word}</td>" for word in part)
            text = f"\n\n<table><tr>{cells}</tr></table>\n\n"
        elif number % HEADING_EVERY == 0:
            text = f"\n\n## {text}\n\n"
        parts.append(text)
    return " ".join(parts)


class BenchRunner(Runner):
    """Does all the work and then writes sampled or given tokens, so that routing stays spread.

    Attributes:
        targets: given texts by page; a page without one is sampled.
        steps, context_sum: of decoding, and their tokens of context.
        touched: experts a layer, in the steps that were looked at.
    """

    LOOK_EVERY = 32

    def __init__(
        self,
        model: DeepseekOCR,
        detokenizer: Detokenizer,
        config: EngineConfig,
        *,
        on_device: bool | None,
    ) -> None:
        super().__init__(model, detokenizer, config, on_device=on_device)
        self.targets: dict[Sequence, list[int]] = {}
        self.steps = self.context_sum = 0
        self.touched: list[int] = []
        self._looking = False
        self._undecodable.zero_()
        self._undecodable[detokenizer.eos_id] = True  # the lengths are given
        model.logits = _sampling(model.logits)  # type: ignore[assignment]
        for layer in model.decoder.layers:
            if isinstance(layer.mlp, MoE):
                layer.mlp.route = self._counted(layer.mlp)  # type: ignore[method-assign]

    def _counted(self, moe: MoE) -> Any:
        route = moe.route

        def counting(x: Tensor) -> tuple[Tensor, Tensor]:
            weights, experts = route(x)
            if self._looking:
                self.touched.append(int(torch.unique(experts).numel()))
            return weights, experts

        return counting

    def decode(self, pages: list[Sequence]) -> list[Picks]:
        """As Runner does it, counting."""
        self._looking = self.steps // self._loop.steps % self.LOOK_EVERY == 0
        self.steps += self._loop.steps
        self.context_sum += self._loop.steps * sum(page.length for page in pages)
        loop = self._loop
        graphs = isinstance(loop, DeviceLoop) and loop.capture
        if isinstance(loop, DeviceLoop):
            loop.capture = graphs and not self._looking  # a graph would not look
        if isinstance(self._model.decoder, NativeDecoder):
            self._model.decoder.whole = not self._looking  # nor would a single call
        try:
            return super().decode(pages)
        finally:
            self._looking = False
            if isinstance(loop, DeviceLoop):
                loop.capture = graphs

    def _pick(self, texts: list[list[int]], hidden: Tensor) -> Picks:
        found = super()._pick(texts, hidden)
        if not self.targets:
            return found
        ids = list(found.token_ids)
        targets = {id(page.token_ids): target for page, target in self.targets.items()}
        target: list[int] | None = None
        for row, text in enumerate(texts):
            # A page's own text comes first, then it with more and more of its draft.
            if id(text) in targets:
                target = targets[id(text)]
            if target is not None:
                ids[row] = target[len(text) % len(target)]
        return Picks(ids, found.logprobs)


def _drawn(shares: Tensor) -> Tensor:
    """An index i64 [rows] for each row of shares [rows,n], as likely as its share."""
    sums = shares.cumsum(-1)
    drawn = torch.rand(len(shares), 1, device=shares.device) * sums[:, -1:]
    return torch.searchsorted(sums, drawn)[:, 0].clamp_(max=shares.shape[-1] - 1)


def _sampling(scores: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Makes a sample at temperature 1 the likeliest.

    By two random numbers a row, one for a part of the vocabulary and one for a token of it: noise
    on every logit would take a tenth of a step on a CPU, one sum over all of it a twentieth.
    """

    def sampled(hidden: Tensor) -> Tensor:
        logits = scores(hidden)  # [...,V]
        size = logits.shape[-1]
        shares = F.pad(logits.softmax(-1), (0, -size % PARTS)).view(-1, PARTS, -(-size // PARTS))
        part = _drawn(shares.sum(-1))
        # All on the device: in a captured graph nothing may come from the host.
        rest = shares.gather(1, part[:, None, None].expand(-1, 1, shares.shape[-1]))[:, 0]
        token = (part * shares.shape[-1] + _drawn(rest)).clamp_(max=size - 1)
        token = token.view(*logits.shape[:-1], 1)
        return logits.scatter_(-1, token, logits.amax(-1, keepdim=True) + 1.0)

    return sampled


class BenchEngine(ModelEngine):
    """Ends each page at its length, and gives pages their texts.

    Attributes:
        drafted, accepted: guessed tokens of all pages, and those that came true.
        inputs: of all pages.
    """

    def __init__(self, spec: BenchSpec, config: EngineConfig, runner: BenchRunner) -> None:
        super().__init__(config, runner, Detokenizer(spec.tokenizer))
        self._spec = spec
        self._targets = runner.targets
        self._prompter = Prompter(spec.tokenizer)
        self.inputs: list[PageInputs] = []
        self.drafted = self.accepted = 0
        self._digests: list[str] = []

    def _sequence(self, inputs: PageInputs) -> Sequence:
        page = super()._sequence(inputs)
        self.inputs.append(inputs)
        name, index = inputs.ref.path.name, inputs.ref.index
        page.max_new_tokens = min(page.max_new_tokens, self._spec.length(name, index))
        if self._spec.changed is not None:
            layer = self._detokenizer.text(inputs.layer_ids.tolist())
            target = self._prompter.encode(given_text(layer, self._spec.changed, f"{name}/{index}"))
            self._targets[page] = target or inputs.input_ids.tolist()
        return page

    def step(self) -> list[Completion | PageFailure]:
        """As ModelEngine does it, counting."""
        done = super().step()
        for page in done:
            if not isinstance(page, Completion):
                raise DocrError(f"page {page.ref.number}: {page.message}")
            self.drafted += page.drafted
            self.accepted += page.accepted
            self._digests.append(f"{page.ref.path.name} {page.ref.index} {page.token_ids}")
        return done

    @property
    def digest(self) -> str:
        """Of all texts, whatever order they came in."""
        return hashlib.sha256("\n".join(sorted(self._digests)).encode()).hexdigest()[:16]
