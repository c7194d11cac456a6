"""What is measured: the same for every engine, small and picklable."""

import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from docr.settings import Dtype, ModeName, Quantize

Lengths = Literal["fixed", "spread"]

SPREAD_SIGMA = 0.6
"""Of the logarithm of the lengths of a spread workload, whose mean is as asked for."""

SPREAD_CAP = 4.0
"""Times the mean: the longest text of a spread workload."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSpec:
    """A measurement.

    Attributes:
        files: PDFs whose pages are read, all of them again and again until there are enough.
        pages: how many.
        model: a checkpoint's folder; None: random weights of the released size, made in memory.
        tokenizer: tokenizer.json.
        tokens: written a page: exactly, or on average where `lengths` is "spread".
        changed: None: tokens are sampled at temperature 1. Else the text is given: each page's
            own text layer as Markdown with this share of its characters changed.
        drafts: check guesses from the text layer; of no use with sampled tokens.
        quantize: "int8": the decoder's weights in 8 bits; CPUs.
        threads: of a CPU; None: as torch finds them.
    """

    files: tuple[Path, ...]
    pages: int
    model: Path | None
    tokenizer: Path
    mode: ModeName
    tokens: int
    lengths: Lengths = "fixed"
    changed: float | None = None
    drafts: bool = False
    device: str = "auto"
    dtype: Dtype = "bfloat16"
    quantize: Quantize = "none"
    batch_size: int | None = None
    threads: int | None = None
    seed: int = 0

    def page_name(self, copy: int, file: int) -> str:
        """What a copy of a file is called while it is measured."""
        return f"{copy:05}-{file:05}{self.files[file].suffix}"

    def length(self, name: str, index: int) -> int:
        """Tokens of a page of a copy, the same for every engine."""
        if self.lengths == "fixed":
            return self.tokens
        rng = random.Random(f"{self.seed}/{name}/{index}")
        drawn = rng.gauss(-(SPREAD_SIGMA**2) / 2, SPREAD_SIGMA)
        return max(1, round(self.tokens * min(math.exp(drawn), SPREAD_CAP)))


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """What came of it.

    Attributes:
        seconds: from opening the first file to the last byte written; loading comes before.
        load_seconds: of the model.
        stages: seconds by stage, over all pages; a batch's time counts once.
        tokens: written in all.
        prompt_tokens: of a page, on average.
        peak_bytes: of the process on a CPU, of tensors on a GPU.
        steps: of decoding.
        experts: touched a layer and step of decoding, on average.
        drafted, accepted: guessed tokens, and those that came true.
        rates: the machine's, measured before: bytes read a second, FLOP a second of bf16 products.
        bound_seconds: what the stages "vision+prefill" and "decode" would take at the machine's
            own rates.
        digest: of all texts; equal where engines must write the same.
    """

    engine: str
    seconds: float
    load_seconds: float
    stages: dict[str, float]
    pages: int
    tokens: int
    prompt_tokens: float
    peak_bytes: int
    steps: int = 0
    experts: float = 0.0
    drafted: int = 0
    accepted: int = 0
    rates: dict[str, float]
    bound_seconds: dict[str, float]
    digest: str = ""
