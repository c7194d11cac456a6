"""Experts for few tokens: the kernel against the plain mixture."""

import pytest
import torch
from torch import Tensor

from docr.engine.model.decoder import Experts, weighted_sum


def plain(experts: Experts, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
    """Each token's experts one after the other."""
    outputs = []
    for row, ids in zip(x, chosen, strict=True):
        for expert in ids:
            sizes = [int(expert == each) for each in range(len(experts.down_proj))]
            outputs.append(experts.segments(row[None], sizes))
    return weighted_sum(torch.cat(outputs), weights).to(x.dtype)


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("rows", "count", "top_k"),
    [(1, 8, 2), (5, 8, 3), (40, 8, 2), (150, 4, 2), (7, 6, 5)],
    ids=["one", "few", "tiles-filled", "larger-tiles", "experts-no-power-of-two"],
)
def test_the_kernel_computes_the_same(
    rows: int, count: int, top_k: int, dtype: torch.dtype, interpreter: None
) -> None:
    from docr.engine.kernels.experts import mix_experts_triton

    torch.manual_seed(rows)
    experts = Experts(count, 128, 64).to(dtype)
    for weight in experts.parameters():
        weight.normal_(std=weight.shape[-1] ** -0.5)
    assert experts.kernel_fits
    x = torch.randn(rows, 128).to(dtype)
    chosen = torch.rand(rows, count).topk(top_k).indices
    chosen[: rows // 2] = torch.arange(top_k) + 1  # a crowd, and experts that nobody chose
    weights = torch.rand(rows, top_k)
    got = mix_experts_triton(x, weights, chosen, experts.gate_up_proj, experts.down_proj)
    near = 1e-5 if dtype == torch.float32 else 5e-3
    torch.testing.assert_close(got, plain(experts, x, weights, chosen), rtol=near, atol=near)
