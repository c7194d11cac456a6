"""What a machine allows: its rates, measured now, and what a run needs of them."""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from docr.engine.model.config import ModelConfig
from docr.engine.model.deepseek_ocr import DeepseekOCR

_MEASURE_SECONDS = 0.5
_READ_BYTES = 1 << 30
_MATRIX = 2048


@dataclass(frozen=True, slots=True)
class Rates:
    """Of one device: bytes a second read from memory, FLOP a second of bf16 products."""

    read: float
    matrix: float


def measure_rates(device: torch.device) -> Rates:
    """The best of many tries in half a second each."""
    values = torch.ones(_READ_BYTES // 4, device=device)
    a, b = (torch.randn(_MATRIX, _MATRIX, device=device).bfloat16() for _ in range(2))
    read = _READ_BYTES / _best_seconds(lambda: values.sum(), device)
    return Rates(read, 2 * _MATRIX**3 / _best_seconds(lambda: a @ b, device))


def _best_seconds(work: Callable[[], object], device: torch.device) -> float:
    best, end = float("inf"), time.perf_counter() + _MEASURE_SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best


@functools.cache
@torch.inference_mode()
def page_flop(config: ModelConfig, views: tuple[tuple[int, int], ...], prompt: int) -> int:
    """FLOP of a page: vision counted on the network itself, without weights, and prefill.

    Args:
        config: of the network.
        views: (side in pixels, how many).
        prompt: tokens.
    """
    with torch.device("meta"):
        model = DeepseekOCR(config).to(torch.bfloat16)
        with FlopCounterMode(display=False) as counter:
            for side, count in views:
                model.encode_views(torch.empty(count, 3, side, side, dtype=torch.uint8))
    return int(counter.get_total_flops()) + prefill_flop(config, prompt)


def prefill_flop(config: ModelConfig, prompt: int) -> int:
    """FLOP of a prompt in the decoder."""
    dim, layers, dense = config.hidden_size, config.num_hidden_layers, config.first_k_dense_replace
    chosen = config.num_experts_per_tok + config.n_shared_experts
    weights = layers * 4 * dim * dim + dense * 3 * dim * config.intermediate_size
    weights += (layers - dense) * 3 * dim * config.moe_intermediate_size * chosen
    attention = layers * 2 * prompt * dim  # half of the pairs, two products
    return 2 * prompt * weights + prompt * attention + 2 * dim * config.vocab_size


def step_bytes(
    config: ModelConfig, *, experts: float, context: float, weight_bytes: int, cache_bytes: int
) -> float:
    """Bytes that a decoding step must read.

    Args:
        config: of the network.
        experts: touched a layer.
        context: tokens of all pages together.
        weight_bytes: of a weight.
        cache_bytes: of a cached value.
    """
    dim, layers, dense = config.hidden_size, config.num_hidden_layers, config.first_k_dense_replace
    weights: float = layers * 4 * dim * dim + dense * 3 * dim * config.intermediate_size
    expert = 3 * dim * config.moe_intermediate_size
    weights += (layers - dense) * expert * (experts + config.n_shared_experts)
    weights += dim * config.vocab_size
    return weight_bytes * weights + cache_bytes * context * 2 * layers * dim
