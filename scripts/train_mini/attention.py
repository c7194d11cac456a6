"""Attention for training on a CPU, where the fused kernel's backward pass is slow."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """What F.scaled_dot_product_attention computes, as two products and a softmax."""
    scores = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.transpose(-1, -2)
    if is_causal:
        later = torch.full(scores.shape[-2:], -torch.inf, dtype=scores.dtype).triu(1)
        scores = scores + later
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1).to(v.dtype) @ v


@contextmanager
def plain_attention(device: torch.device) -> Iterator[None]:
    """Use `attend` on a CPU: forward and backward take a third of the time there."""
    if device.type != "cpu":
        yield
        return
    fused = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = attend
    try:
        yield
    finally:
        F.scaled_dot_product_attention = fused
