"""Attention over blocks: against attention over the same keys in one piece, and its two forms."""

import pytest
import torch
from torch import Tensor

from docr.engine import paged_attention as paged
from docr.engine.model.decoder import attend

P = 16
"""Tokens of a block here."""


def scattered(
    lengths: list[int], tokens: int, heads: int, head_dim: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
    """q, keys, values, table, positions; and each row's keys and values in one piece."""
    generator = torch.Generator().manual_seed(len(lengths))
    width = -(-max(lengths) // P) + 1
    order = 1 + torch.randperm(len(lengths) * width, generator=generator)
    table = order.view(len(lengths), width).to(torch.int32)
    kept = torch.randn(2, 1 + table.numel(), P, heads, head_dim, generator=generator).to(dtype)
    rows = []
    for row, length in enumerate(lengths):
        own = kept[:, table[row].long()].flatten(1, 2)  # 2,K,H,hd
        rows.append((own[0, :length].transpose(0, 1), own[1, :length].transpose(0, 1)))
        # What lies behind a row's end may be anything.
        last = table[row, (length - 1) // P]
        kept[:, last, length - (length - 1) // P * P :] = torch.nan
        kept[:, table[row, (length - 1) // P + 1 :].long()] = torch.nan
    q = torch.randn(len(lengths), heads, tokens, head_dim, generator=generator).to(dtype)
    ends = torch.tensor(lengths)[:, None] - tokens + torch.arange(tokens)
    return q, kept[0], kept[1], table, ends, rows


@pytest.mark.parametrize("tokens", [1, 2, 5])
@pytest.mark.parametrize("lengths", [[5], [16, 33, 7], [90, 5, 64, 17, 48]])
def test_it_is_attention(lengths: list[int], tokens: int) -> None:
    q, keys, values, table, positions, rows = scattered(lengths, tokens, 3, 8, torch.float32)
    got = paged.paged_attention(q, keys, values, table, positions)
    for row, (k, v) in enumerate(rows):
        seen = torch.arange(k.shape[1]) <= positions[row, :, None]
        wanted = attend(q[row, None], k[None], v[None], seen[None, None])
        torch.testing.assert_close(got[row, None], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("lengths", "tokens"), [([5], 1), ([16, 33, 7], 5), ([90, 5, 64, 17, 48], 2), ([200] * 2, 9)]
)
def test_the_kernel_computes_the_same(
    lengths: list[int], tokens: int, dtype: torch.dtype, interpreter: None
) -> None:
    q, keys, values, table, positions, _ = scattered(lengths, tokens, 2, 32, dtype)
    assert paged.kernel_fits(q)
    from docr.engine.kernels.paged_attention import paged_attention_triton

    got = paged_attention_triton(q, keys, values, table, positions)
    wanted = paged.paged_attention_torch(q, keys, values, table, positions)
    near = 1e-5 if dtype == torch.float32 else 2e-3
    torch.testing.assert_close(got, wanted, rtol=near, atol=near)
