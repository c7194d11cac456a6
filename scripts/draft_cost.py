"""What a guessed token costs on a CPU: docr.engine.drafts.BREAK_EVEN is chosen by this.

    python scripts/draft_cost.py MODEL [--dtype bfloat16] [--quantize int8] [--pages 1 8]

Decodes random tokens over a cache of random content, 1 to 9 tokens of each page in a step, in
turns, and prints the medians. A guess must come true more often than what a token more costs, as a
share of a step with one token of each page.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch

from docr.engine.cache import Decoding
from docr.engine.drafts import MAX_DRAFT
from docr.engine.model.deepseek_ocr import DeepseekOCR
from docr.engine.model.layout import lay_out
from docr.engine.model.load import load_model
from docr.engine.sampling import pick

CONTEXT, ROW = 864, 1088  # tokens of each page before the step, and room for them
TOKENS = (1, 2, 3, 5, 1 + MAX_DRAFT)
ROUNDS, UNCOUNTED = 24, 2


@torch.inference_mode()
def measure(model: DeepseekOCR, pages: int) -> dict[int, float]:
    """Median seconds of a step with so many tokens of each page."""
    dims, dtype = model.config, model.image_newline.dtype
    shape = (pages, dims.num_attention_heads, ROW, dims.head_dim)
    rows = [torch.randn(shape).to(dtype) for _ in range(2 * dims.num_hidden_layers)]
    decodable = torch.zeros(dims.vocab_size, dtype=torch.bool)
    seconds: dict[int, list[float]] = {tokens: [] for tokens in TOKENS}
    for number in range(ROUNDS):
        for tokens in sorted(TOKENS, reverse=bool(number % 2)):
            start = time.perf_counter()
            cache = Decoding(rows, [CONTEXT] * pages, [tokens] * pages)
            ids = torch.randint(0, dims.vocab_size, cache.positions.shape)
            hidden = model(model.embed(ids), cache.positions, cache)[0]
            pick(model.logits(hidden), undecodable=decodable, banned=[()] * len(hidden))
            seconds[tokens].append(time.perf_counter() - start)
    return {tokens: statistics.median(each[UNCOUNTED:]) for tokens, each in seconds.items()}


def main() -> None:
    """Print a line for each number of pages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a checkpoint's folder")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--quantize", default="none", choices=("none", "int8"))
    parser.add_argument("--pages", type=int, nargs="+", default=[1, 8])
    options = parser.parse_args()
    model = load_model(options.model, device="cpu", dtype=getattr(torch, options.dtype))
    lay_out(model, options.quantize)
    for pages in options.pages:
        found = measure(model, pages)
        shares = {n: (found[n] / found[1] - 1) / (n - 1) for n in TOKENS if n > 1}
        print(f"{pages} pages, tokens of each: ms a step, share that each token more costs")
        for tokens, seconds in found.items():
            share = f"{shares[tokens]:6.2f}" if tokens > 1 else ""
            print(f"{tokens:3d} {1e3 * seconds:8.1f} {share}", flush=True)


if __name__ == "__main__":
    main()
