"""The speed of each kernel beside its twin in PyTorch, in bf16, at the released model's sizes.

    python -m scripts.kernel_speed                     # on a CUDA device; a Markdown table
    TRITON_INTERPRET=1 python -m scripts.kernel_speed --toy    # on a CPU: only that it runs

On a GPU each is captured as a graph and replayed, so that launches do not count. What is read from
memory is larger than the caches: all experts of a layer, keys and values of a whole batch.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from docr.engine.grid_attention import grid_attention_torch
from docr.engine.kernels.experts import mix_experts_triton
from docr.engine.kernels.grid_attention import grid_attention_triton
from docr.engine.kernels.paged_attention import paged_attention_triton
from docr.engine.model.config import ClipConfig, ModelConfig, SamConfig
from docr.engine.model.decoder import MoE
from docr.engine.paged_attention import paged_attention_torch

REPLAYS = 20
BLOCK = 64


@dataclass(frozen=True)
class Sizes:
    """What is measured, and at which sizes.

    Attributes:
        experts: the decoder, of which one layer's experts are run.
        tokens: that go through them together.
        attention: rows, tokens of a row's step, tokens kept of it.
        grids: views, and their side in patches.
    """

    experts: ModelConfig
    tokens: tuple[int, ...]
    attention: tuple[tuple[int, int, int], ...]
    grids: tuple[tuple[int, int], ...]


FULL = Sizes(
    ModelConfig(sam=SamConfig(), clip=ClipConfig()),
    (1, 8, 32, 128, 256, 512, 1280, 4096),
    ((8, 1, 785), (256, 1, 785), (256, 5, 785), (256, 1, 1415)),
    ((16, 40), (8, 64), (4, 80)),
)
TOY = Sizes(
    ModelConfig(
        sam=SamConfig(),
        clip=ClipConfig(),
        hidden_size=128,
        num_attention_heads=4,
        moe_intermediate_size=64,
        n_routed_experts=8,
    ),
    (1, 8),
    ((2, 1, 100), (2, 5, 100)),
    ((1, 16),),
)


def seconds(work: Callable[[], object], device: str) -> float:
    """Of one call."""
    if device == "cpu":
        started = time.perf_counter()
        work()
        return time.perf_counter() - started
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    graph.replay()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(REPLAYS):
        graph.replay()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3 / REPLAYS


def row(
    name: str, twin: Callable[[], object], kernel: Callable[[], object], load: float, unit: str
) -> str:
    """A row of the table. `load` is what the kernel has to read or compute at least."""
    device = torch.get_default_device().type
    slow, fast = seconds(twin, device), seconds(kernel, device)
    times = f"{slow * 1e6:.0f} | {fast * 1e6:.0f} | {slow / fast:.2f}"
    return f"| {name} | {times} | {load / fast:.3g} {unit}/s |"


def experts(sizes: Sizes) -> Iterator[str]:
    """Tokens through one layer's experts, chosen evenly at random."""
    config = sizes.experts
    count, top_k = config.n_routed_experts, config.num_experts_per_tok
    moe = MoE(config).to(torch.bfloat16).requires_grad_(False)
    for parameter in moe.parameters():
        parameter.normal_(std=0.02)
    weights = moe.experts.gate_up_proj, moe.experts.down_proj
    for tokens in sizes.tokens:
        x = torch.randn(tokens, config.hidden_size, dtype=torch.bfloat16)
        routed = x, torch.rand(tokens, top_k), torch.rand(tokens, count).topk(top_k).indices
        touched = len(routed[2].unique()) * 3 * config.hidden_size * config.moe_intermediate_size
        twin = partial(moe.experts.mix_grouped, *routed)
        kernel = partial(mix_experts_triton, *routed, *weights)
        yield row(f"experts, {tokens} tokens", twin, kernel, touched * 2 / 1e9, "GB")


def attention(sizes: Sizes) -> Iterator[str]:
    """One layer's attention while decoding."""
    heads, head_dim = sizes.experts.num_attention_heads, sizes.experts.head_dim
    for rows, tokens, kept in sizes.attention:
        blocks = -(-kept // BLOCK)
        shape = (2, 1 + rows * blocks, BLOCK, heads, head_dim)
        keys, values = torch.randn(shape, dtype=torch.bfloat16)
        table = 1 + torch.randperm(rows * blocks).view(rows, blocks).to(torch.int32)
        q = torch.randn(rows, heads, tokens, head_dim, dtype=torch.bfloat16)
        ends = (kept - tokens + torch.arange(tokens)).expand(rows, -1).contiguous()
        inputs = q, keys, values, table, ends
        read = rows * kept * 2 * heads * head_dim * 2 / 1e9
        name = f"decoding, {rows} rows, {tokens} tokens a row, {kept} kept"
        twin, kernel = (
            partial(paged_attention_torch, *inputs),
            partial(paged_attention_triton, *inputs),
        )
        yield row(name, twin, kernel, read, "GB")


def grids(sizes: Sizes) -> Iterator[str]:
    """One layer's attention of SAM over whole views."""
    sam = sizes.experts.sam
    for views, side in sizes.grids:
        N = side * side
        qkv = torch.randn(views, N, 3, sam.heads, sam.head_dim, dtype=torch.bfloat16)
        biases = torch.randn(2, views, sam.heads, N, side, dtype=torch.bfloat16)
        inputs = *qkv.permute(2, 0, 3, 1, 4), *biases
        computed = views * sam.heads * 4 * N * N * sam.head_dim / 1e12
        name = f"SAM, {views} views of {side} x {side}"
        twin, kernel = (
            partial(grid_attention_torch, *inputs),
            partial(grid_attention_triton, *inputs),
        )
        yield row(name, twin, kernel, computed, "TFLOP")


@torch.inference_mode()
def table(device: str, sizes: Sizes) -> list[str]:
    """The table's lines."""
    with torch.device(device):
        rows = [*experts(sizes), *attention(sizes), *grids(sizes)]
    head = "| kernel | PyTorch, us | Triton, us | times as fast | rate |"
    return [head, "|---|---|---|---|---|", *rows]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--toy", action="store_true", help="small, on the CPU")
    toy = parser.parse_args().toy
    print(*table("cpu" if toy else "cuda", TOY if toy else FULL), sep="\n")


if __name__ == "__main__":
    main()
