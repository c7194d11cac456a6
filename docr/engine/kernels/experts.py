"""A mixture of experts for few tokens: decoding reads each chosen expert's weights once.

Rows are sorted by expert and cut into tiles of one expert each. How many tiles there are is known
on the device alone; as many programs are started as there can be, and those without a tile end.
The first kernel computes silu(gate x) * up x, the second the way down, times the expert's share.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from docr.engine.kernels import LEAST, PIECE

WIDE = PIECE
"""Columns of a product that a program computes."""

DEEP = PIECE
"""Of the products' inner sides, read at a time."""


def mix_experts_triton(
    x: Tensor, weights: Tensor, experts: Tensor, gate_up: Tensor, down: Tensor
) -> Tensor:
    """The chosen experts' outputs, weighted and summed in fp32; see decoder.MoE.mix_experts.

    Args:
        x: [R,D].
        weights: fp32 [R,k].
        experts: i64 [R,k].
        gate_up: [E,2F,D], F and D multiples of PIECE.
        down: [E,D,F].

    Returns:
        [R,D] in x's dtype.
    """
    R, D = x.shape
    k = experts.shape[1]
    E, F = down.shape[0], down.shape[2]
    choices = R * k
    # Larger tiles where experts have more rows, or their weights would be read for each tile.
    tile = min(4 * LEAST, max(LEAST, triton.next_power_of_2(choices // E)))
    chosen = experts.flatten()
    order = chosen.argsort(stable=True)
    every = torch.arange(E, device=x.device)
    ends = torch.searchsorted(chosen[order], every, right=True)
    starts = torch.cat((ends.new_zeros(1), ends[:-1]))
    tile_ends = ((ends - starts + tile - 1) // tile).cumsum(0)
    tiles = min(choices, choices // tile + E)
    shared = (order, starts, ends, tile_ends, k)
    sizes = {"E": E, "E2": triton.next_power_of_2(E), "D": D, "F": F, "TILE": tile}
    sizes |= {"WIDE": WIDE, "DEEP": DEEP}

    hidden = x.new_empty(choices, F)
    # Tiles are the first side of the grid: those of one expert run together and share its weights.
    _gate_up[(tiles, F // WIDE)](x.contiguous(), gate_up, hidden, *shared, **sizes)
    shares = x.new_empty(choices, D, dtype=torch.float32)
    weights = weights.float().contiguous()
    _down[(tiles, D // WIDE)](hidden, down, weights, shares, *shared, **sizes)
    return shares.view(R, k, D).sum(1).to(x.dtype)


@triton.jit
def _tile(  # type: ignore[no-untyped-def]
    starts_at, ends_at, tile_ends_at, E: tl.constexpr, E2: tl.constexpr, TILE: tl.constexpr
):
    """This program's expert (E or more: none), its rows among the sorted, and which are real."""
    tile = tl.program_id(0)
    each = tl.arange(0, E2)
    tile_ends = tl.load(tile_ends_at + each, mask=each < E, other=1 << 30)
    before = tile_ends <= tile
    expert = tl.sum(before.to(tl.int32), axis=0)
    first_tile = tl.max(tl.where(before, tile_ends, 0), axis=0)
    there = expert < E
    start = tl.load(starts_at + expert, mask=there, other=0)
    end = tl.load(ends_at + expert, mask=there, other=0)
    rows = start + (tile - first_tile) * TILE + tl.arange(0, TILE)
    return expert, rows, rows < end


@triton.jit
def _gate_up(  # type: ignore[no-untyped-def]
    x_at,
    weights_at,
    hidden_at,
    order_at,
    starts_at,
    ends_at,
    tile_ends_at,
    k,
    E: tl.constexpr,
    E2: tl.constexpr,
    D: tl.constexpr,
    F: tl.constexpr,
    TILE: tl.constexpr,
    WIDE: tl.constexpr,
    DEEP: tl.constexpr,
):
    """Make hidden [R*k,F], sorted by expert, of x [R,D] and the weights [E,2F,D]."""
    expert, rows, real = _tile(starts_at, ends_at, tile_ends_at, E, E2, TILE)
    if expert < E:
        token = tl.load(order_at + rows, mask=real, other=0) // k
        column = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
        depth = tl.arange(0, DEEP)
        gate_at = weights_at + (expert.to(tl.int64) * 2 * F + column[:, None]) * D + depth[None, :]
        from_at = x_at + token[:, None] * D + depth[None, :]
        gate = tl.zeros([TILE, WIDE], tl.float32)
        up = tl.zeros([TILE, WIDE], tl.float32)
        for at in range(0, D, DEEP):
            x = tl.load(from_at + at, mask=real[:, None], other=0.0)
            gate = tl.dot(x, tl.trans(tl.load(gate_at + at)), acc=gate)
            up = tl.dot(x, tl.trans(tl.load(gate_at + F * D + at)), acc=up)
        mixed = gate * tl.sigmoid(gate) * up
        to = hidden_at + rows[:, None] * F + column[None, :]
        tl.store(to, mixed.to(hidden_at.dtype.element_ty), mask=real[:, None])


@triton.jit
def _down(  # type: ignore[no-untyped-def]
    hidden_at,
    weights_at,
    share_of_at,
    shares_at,
    order_at,
    starts_at,
    ends_at,
    tile_ends_at,
    k,
    E: tl.constexpr,
    E2: tl.constexpr,
    D: tl.constexpr,
    F: tl.constexpr,
    TILE: tl.constexpr,
    WIDE: tl.constexpr,
    DEEP: tl.constexpr,
):
    """Make shares [R*k,D], by token and choice, of hidden [R*k,F] and the weights [E,D,F]."""
    expert, rows, real = _tile(starts_at, ends_at, tile_ends_at, E, E2, TILE)
    if expert < E:
        choice = tl.load(order_at + rows, mask=real, other=0)
        column = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
        depth = tl.arange(0, DEEP)
        down_at = weights_at + (expert.to(tl.int64) * D + column[:, None]) * F + depth[None, :]
        from_at = hidden_at + rows[:, None] * F + depth[None, :]
        out = tl.zeros([TILE, WIDE], tl.float32)
        for at in range(0, F, DEEP):
            hidden = tl.load(from_at + at, mask=real[:, None], other=0.0)
            out = tl.dot(hidden, tl.trans(tl.load(down_at + at)), acc=out)
        share = tl.load(share_of_at + choice, mask=real, other=0.0)
        to = shares_at + choice[:, None] * D + column[None, :]
        tl.store(to, out * share[:, None], mask=real[:, None])
