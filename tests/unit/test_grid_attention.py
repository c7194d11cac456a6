"""Attention over a grid: its two forms; what it computes is in test_model_deepencoder.py."""

import pytest
import torch
from torch import Tensor

from docr.engine import grid_attention as grid


def inputs(
    views: int, heads: int, side: int, head_dim: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """q, k, v as views of one product, as a layer has them; and biases that matter."""
    generator = torch.Generator().manual_seed(side)
    shape = (views, side * side, 3, heads, head_dim)
    q, k, v = torch.randn(*shape, generator=generator).to(dtype).permute(2, 0, 3, 1, 4)
    biases = torch.randn(2, views, heads, side * side, side, generator=generator).to(dtype) * 2
    return q, k, v, biases[0], biases[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("side", [5, 16, 19])  # the last two tile their queries, 19 with a rest
def test_the_kernel_computes_the_same(side: int, dtype: torch.dtype, interpreter: None) -> None:
    from docr.engine.kernels.grid_attention import grid_attention_triton

    tensors = inputs(2, 3, side, 16, dtype)
    got, wanted = grid_attention_triton(*tensors), grid.grid_attention_torch(*tensors)
    near = 1e-5 if dtype == torch.float32 else 5e-3
    torch.testing.assert_close(got, wanted, rtol=near, atol=near)
    tokens_first = got.transpose(1, 2)
    assert tokens_first.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("side", [5, 40])  # the second takes its queries in parts
def test_bias_by_bias_is_the_same(side: int, dtype: torch.dtype) -> None:
    tensors = inputs(2, 3, side, 16, dtype)
    got, wanted = grid.grid_attention_masked(*tensors), grid.grid_attention_torch(*tensors)
    near = 1e-5 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(got, wanted, rtol=near, atol=near)
    assert got.transpose(1, 2).is_contiguous()


def test_training_goes_through_it() -> None:
    tensors = [each.requires_grad_() for each in inputs(1, 2, 32, 16, torch.float32)]
    grid.grid_attention(*tensors).square().sum().backward()
    assert all(each.grad is not None and each.grad.any() for each in tensors)


def test_the_kernel_is_for_whole_views_not_windows() -> None:
    if not grid.HAS_TRITON:
        pytest.skip("Triton is not installed")
    q = torch.empty(1, 12, 1, 64)
    assert [grid.kernel_fits(q, side) for side in (14, 40, 64, 80)] == [False, True, True, True]
    assert not grid.kernel_fits(torch.empty(1, 12, 1, 48), 64)
