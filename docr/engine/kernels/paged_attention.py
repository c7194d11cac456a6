"""Attention of a few new tokens a row over keys and values in blocks, each read once."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from docr.engine.kernels import LEAST

PROGRAMS = 512
"""Rows x heads x splits to aim at: with fewer, parts of the GPU have nothing to read."""

MAX_SPLITS = 16


def paged_attention_triton(
    q: Tensor, keys: Tensor, values: Tensor, table: Tensor, positions: Tensor
) -> Tensor:
    """See paged_attention; sums in fp32. Each row's keys are split, and the parts are joined."""
    B, H, T, hd = q.shape
    splits = max(1, min(MAX_SPLITS, PROGRAMS // (B * H), table.shape[1]))
    parts = q.new_empty(splits, B, H, T, hd, dtype=torch.float32)
    weights = q.new_empty(splits, B, H, T, dtype=torch.float32)
    _attend_part[(B * H, splits)](
        q.contiguous(),
        keys,
        values,
        table,
        positions.contiguous(),
        parts,
        weights,
        hd**-0.5,
        H,
        T,
        table.stride(0),
        splits,
        HD=hd,
        BLOCK=keys.shape[1],
        TILE=LEAST,
    )
    share = weights.softmax(0)[..., None]
    return (parts * share).sum(0).to(q.dtype)


@triton.jit
def _attend_part(  # type: ignore[no-untyped-def]
    q_at,
    keys_at,
    values_at,
    table_at,
    positions_at,
    parts_at,
    weights_at,
    scale,
    heads,
    tokens,
    table_stride,
    splits,
    HD: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
):
    """One head of one row over one split of its blocks: its mean of values, and its weight."""
    row, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    split = tl.program_id(1)
    token, channel, place = tl.arange(0, TILE), tl.arange(0, HD), tl.arange(0, BLOCK)
    real = token < tokens
    position = tl.load(positions_at + row * tokens + token, mask=real, other=0)
    blocks = tl.max(position, axis=0) // BLOCK + 1
    each = (blocks + splits - 1) // splits
    first = split * each
    last = tl.minimum(first + each, blocks)
    line = tl.program_id(0) * tokens + token  # of [B,H,T]
    q = tl.load(q_at + line[:, None] * HD + channel[None, :], mask=real[:, None], other=0.0)

    largest = tl.full([TILE], float("-inf"), tl.float32)
    total = tl.zeros([TILE], tl.float32)
    mixed = tl.zeros([TILE, HD], tl.float32)
    index = first
    while index < last:  # the interpreter has no range of numbers known only at run time
        block = tl.load(table_at + row * table_stride + index).to(tl.int64)
        at = ((block * BLOCK + place) * heads + head)[:, None] * HD + channel[None, :]
        seen = index * BLOCK + place[None, :] <= position[:, None]
        known = (index * BLOCK + place <= tl.max(position, axis=0))[:, None]
        k = tl.load(keys_at + at, mask=known, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        scores = tl.where(seen, scores, float("-inf"))
        new = tl.maximum(largest, tl.max(scores, axis=1))
        # A token may see nothing of this block: -inf - -inf is not a number.
        safe = tl.where(new == float("-inf"), 0.0, new)
        weight = tl.exp(scores - safe[:, None])
        fade = tl.exp(largest - safe)
        v = tl.load(values_at + at, mask=known, other=0.0)
        total = total * fade + tl.sum(weight, axis=1)
        mixed = mixed * fade[:, None] + tl.dot(weight.to(v.dtype), v, input_precision="ieee")
        largest = new
        index += 1
    safe = tl.where(total == 0.0, 1.0, total)
    out = tl.program_id(1) * tl.num_programs(0) * tokens + line  # of [S,B,H,T]
    tl.store(
        parts_at + out[:, None] * HD + channel[None, :],
        mixed / safe[:, None],
        mask=real[:, None],
    )
    empty = tl.where(total == 0.0, float("-inf"), largest + tl.log(safe))
    tl.store(weights_at + out, empty, mask=real)
