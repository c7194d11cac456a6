"""Attention over a square grid with decomposed relative positions, as SAM's.

Four forms of the same: a Triton kernel (kernels/grid_attention.py), one in C for CPUs
(native/grid_attention.c), `grid_attention_masked` for CPUs without it, and `grid_attention_torch`,
which runs anywhere. Tests compare them.

Shapes: B views, H heads, hd head dim, g side of the grid, N = g*g tokens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from docr.engine.kernels import HAS_TRITON, LEAST, is_power_of_two
from docr.engine.native import products

LEAST_SIDE = 32
"""Of a grid that is a whole view; windows are smaller, and gain nothing from the other forms."""

QUERIES = 1024
"""Of a head, for which a CPU makes the bias at a time: 16 MB of it for a view of 1024 px."""


def grid_attention(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Attend from each token to all, with a bias for the distance in rows and in columns.

    The score of query (h, w) and key (i, j) is hd**-0.5 * q.k + rows[h, w, i] + columns[h, w, j].

    Args:
        q: [B,H,N,hd], tokens row by row.
        k: the same.
        v: the same.
        rows: [B,H,N,g].
        columns: the same.

    Returns:
        [B,H,N,hd].
    """
    if q.requires_grad:  # the other forms have no way back
        return grid_attention_torch(q, k, v, rows, columns)
    if q.is_cuda and kernel_fits(q, rows.shape[-1]):
        # Imported where it is used: a run without a GPU need not load Triton.
        from docr.engine.kernels.grid_attention import grid_attention_triton

        return grid_attention_triton(q, k, v, rows, columns)
    if products.takes_grid(q, rows.shape[-1]):
        return products.grid_attention(q, k, v, rows, columns)
    # Where nothing but FLOP is counted, too: it has those of the definition.
    if (q.is_cpu or q.is_meta) and rows.shape[-1] >= LEAST_SIDE:
        return grid_attention_masked(q, k, v, rows, columns)
    return grid_attention_torch(q, k, v, rows, columns)


def kernel_fits(q: Tensor, side: int) -> bool:
    """Whether the kernel takes queries of this shape, and is worth it."""
    hd = q.shape[-1]
    return HAS_TRITON and side >= LEAST_SIDE and hd >= LEAST and is_power_of_two(hd)


def grid_attention_torch(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """See grid_attention.

    With both biases appended to q, and to k the one-hot of i and of j, one product yields the
    scores, so that the [B,H,N,N] bias (0.4 GB a 1024 px view in bf16) need not exist and any SDPA
    kernel serves.
    """
    B, H, N, hd = q.shape
    g = rows.shape[-1]
    one_hot = torch.eye(g, dtype=k.dtype, device=k.device)
    cell = torch.cat((one_hot.repeat_interleave(g, 0), one_hot.repeat(g, 1)), dim=-1)  # N,2g
    q = torch.cat((q * hd**-0.5, rows, columns), dim=-1)
    k = torch.cat((k, cell.expand(B, H, N, 2 * g)), dim=-1)
    # SDPA's fast kernels want v as wide as q and k.
    v = F.pad(v, (0, 2 * g))
    return F.scaled_dot_product_attention(q, k, v, scale=1.0)[..., :hd]


def grid_attention_masked(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """See grid_attention: a head at a time, with the bias made for some queries at a time, in fp32.

    A CPU without a matrix unit takes half the time of grid_attention_torch, whose products are
    three times as large for a head of 64 and a grid of 64 x 64; in bf16 both are as exact.
    """
    B, H, N, hd = q.shape
    # Laid out as the projection behind it reads it.
    out = q.new_empty(B, N, H, hd).transpose(1, 2)
    for view in range(B):
        for head in range(H):
            one = slice(view, view + 1), slice(head, head + 1)
            keys, values = k[one].contiguous(), v[one].contiguous()
            for start in range(0, N, QUERIES):
                some = *one, slice(start, start + QUERIES)
                bias = rows[some].float()[..., :, None] + columns[some][..., None, :]
                out[some] = F.scaled_dot_product_attention(
                    q[some], keys, values, attn_mask=bias.flatten(-2)
                )
    return out
