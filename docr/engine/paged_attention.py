"""Attention of a few new tokens a row over keys and values that lie in blocks.

Two forms of the same: a Triton kernel (kernels/paged_attention.py) that reads each key and value
once, from where it lies, and `paged_attention_torch`, which gathers them first and runs anywhere.
Tests compare the two.

Shapes: B rows, T tokens of this call, H heads, hd head dim, N blocks of P tokens, M blocks a row
may have.
"""

import torch
from torch import Tensor

from docr.engine.kernels import HAS_TRITON, LEAST, is_power_of_two


def paged_attention(
    q: Tensor, keys: Tensor, values: Tensor, table: Tensor, positions: Tensor
) -> Tensor:
    """Attend from each token to all keys of its row up to its own position.

    Args:
        q: [B,H,T,hd].
        keys: [N,P,H,hd].
        values: the same.
        table: i32 [B,M], the blocks of each row in order.
        positions: i64 [B,T], ascending in each row, below M*P.

    Returns:
        [B,H,T,hd] in q's dtype.
    """
    if q.is_cuda and kernel_fits(q):
        # Imported where it is used: a run without a GPU need not load Triton.
        from docr.engine.kernels.paged_attention import paged_attention_triton

        return paged_attention_triton(q, keys, values, table, positions)
    return paged_attention_torch(q, keys, values, table, positions)


def kernel_fits(q: Tensor) -> bool:
    """Whether the kernel takes queries of this shape."""
    T, hd = q.shape[2:]
    return HAS_TRITON and T <= LEAST and hd >= LEAST and is_power_of_two(hd)


def paged_attention_torch(
    q: Tensor, keys: Tensor, values: Tensor, table: Tensor, positions: Tensor
) -> Tensor:
    """See paged_attention; scores and softmax in fp32."""
    B, H, _, hd = q.shape
    k, v = (kept[table.long()].view(B, -1, H, hd).transpose(1, 2) for kept in (keys, values))
    token = torch.arange(k.shape[2], device=q.device)
    hidden = (token > positions[:, :, None])[:, None]  # B,1,T,K
    scores = (q @ k.transpose(-1, -2)).float() * hd**-0.5
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1).to(v.dtype)
    # Blocks keep what other pages wrote: a NaN of theirs would come through a weight of 0.
    unseen = hidden.all(2)[..., None]  # B,1,K,1
    out: Tensor = weights @ v.masked_fill(unseen, 0)
    return out
