"""SAM's attention over a square grid, with the bias made where it is added.

The keys are taken one row of the grid at a time: for all of them the bias of rows is one number a
query, and the bias of columns the same for every row, so that neither is ever written out.
"""

import triton
import triton.language as tl
from torch import Tensor

from docr.engine.kernels import LEAST

QUERIES = 128
"""Of one head, that a program attends from."""

_LOG2_E = tl.constexpr(1.4426950408889634)


def grid_attention_triton(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """See grid_attention; sums in fp32.

    The result is laid out as [B,N,H,hd], which the projection behind it reads without a copy.
    """
    B, H, N, hd = q.shape
    g = rows.shape[-1]
    out = q.new_empty(B, N, H, hd).transpose(1, 2)
    tile = min(QUERIES, triton.next_power_of_2(N))
    _attend[(triton.cdiv(N, tile), B * H)](
        q,
        k,
        v,
        rows.transpose(-1, -2).contiguous(),  # a program reads one number of each query at a time
        columns.contiguous(),
        out,
        hd**-0.5,
        H,
        q.stride(0),
        q.stride(1),
        q.stride(2),
        k.stride(0),
        k.stride(1),
        k.stride(2),
        v.stride(0),
        v.stride(1),
        v.stride(2),
        N,
        SIDE=g,
        SIDE2=max(LEAST, triton.next_power_of_2(g)),
        HD=hd,
        TILE=tile,
        num_warps=8 if tile == QUERIES else 4,
        # Keys and values are fetched ahead as far as shared memory holds them.
        num_stages=3 if q.element_size() == 2 else 1,
    )
    return out


@triton.jit
def _attend(  # type: ignore[no-untyped-def]
    q_at,
    k_at,
    v_at,
    rows_at,
    columns_at,
    out_at,
    scale,
    heads,
    q_view,
    q_head,
    q_token,
    k_view,
    k_head,
    k_token,
    v_view,
    v_head,
    v_token,
    N,
    SIDE: tl.constexpr,
    SIDE2: tl.constexpr,
    HD: tl.constexpr,
    TILE: tl.constexpr,
):
    """A tile of queries of one head of one view, over all keys; scores in powers of two."""
    view, head = (tl.program_id(1) // heads).to(tl.int64), tl.program_id(1) % heads
    query = tl.program_id(0) * TILE + tl.arange(0, TILE)
    real = query < N
    channel, column = tl.arange(0, HD), tl.arange(0, SIDE2)
    inside = column < SIDE
    q_from = q_at + view * q_view + head * q_head + query[:, None] * q_token + channel[None, :]
    q = tl.load(q_from, mask=real[:, None], other=0.0)
    pair = view * heads + head
    columns_from = columns_at + (pair * N + query[:, None]) * SIDE + column[None, :]
    both = real[:, None] & inside[None, :]
    bias_columns = tl.load(columns_from, mask=both, other=0.0).to(tl.float32)
    bias_columns = tl.where(inside[None, :], bias_columns * _LOG2_E, float("-inf"))
    rows_from = rows_at + pair * SIDE * N + query
    k_from = k_at + view * k_view + head * k_head + column[:, None] * k_token + channel[None, :]
    v_from = v_at + view * v_view + head * v_head + column[:, None] * v_token + channel[None, :]

    largest = tl.full([TILE], float("-inf"), tl.float32)
    total = tl.zeros([TILE], tl.float32)
    mixed = tl.zeros([TILE, HD], tl.float32)
    for row in range(SIDE):  # fp32 stays fp32: that is what parity is shown in
        k = tl.load(k_from + row * SIDE * k_token, mask=inside[:, None], other=0.0)
        bias_row = tl.load(rows_from + row * N, mask=real, other=0.0).to(tl.float32) * _LOG2_E
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * (scale * _LOG2_E)
        scores += bias_row[:, None] + bias_columns
        new = tl.maximum(largest, tl.max(scores, axis=1))
        weight = tl.exp2(scores - new[:, None])
        fade = tl.exp2(largest - new)
        v = tl.load(v_from + row * SIDE * v_token, mask=inside[:, None], other=0.0)
        total = total * fade + tl.sum(weight, axis=1)
        mixed = mixed * fade[:, None] + tl.dot(weight.to(v.dtype), v, input_precision="ieee")
        largest = new
    out = mixed / total[:, None]
    to = out_at + ((view * N + query[:, None]) * heads + head) * HD + channel[None, :]
    tl.store(to, out.to(out_at.dtype.element_ty), mask=real[:, None])
