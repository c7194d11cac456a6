"""DeepEncoder's attention against its definition, and the layout of a page's vision tokens."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from docr.engine.model.config import ModelConfig, SamConfig
from docr.engine.model.deepencoder import SamAttention, SamBlock, relative_positions, resize_grid
from docr.engine.model.deepseek_ocr import DeepseekOCR
from docr.types import Grid
from scripts.make_random_checkpoint import toy_config

SAM = SamConfig(width=24, heads=3, layers=1, position_grid=8, window_size=5)


@pytest.fixture(autouse=True)
def seeded_on_one_thread() -> Iterator[None]:
    """Networks this small lose more to threads waiting for each other than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def randomise(module: torch.nn.Module) -> None:
    for parameter in module.parameters():
        parameter.data.normal_(std=parameter.shape[-1] ** -0.5)


def defined(attention: SamAttention, x: Tensor) -> Tensor:
    """Attention with decomposed relative positions as it is written down, in fp64."""
    B, g, _, C = x.shape
    H, hd = attention.heads, attention.head_dim
    qkv = F.linear(x, attention.qkv.weight, attention.qkv.bias).double()
    q, k, v = qkv.view(B, g * g, 3, H, hd).permute(2, 0, 3, 1, 4)
    rows = relative_positions(attention.rel_pos_h, g).double()
    columns = relative_positions(attention.rel_pos_w, g).double()
    scores = q @ k.transpose(-1, -2) * hd**-0.5
    for query in range(g * g):
        for key in range(g * g):
            table = rows[query // g, key // g] + columns[query % g, key % g]
            scores[..., query, key] += q[..., query, :] @ table
    mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(B, g, g, C)
    return F.linear(mixed.to(x.dtype), attention.proj.weight, attention.proj.bias)


@pytest.mark.parametrize("side", [8, 6])  # as stored, and with a resized table
@torch.inference_mode()
def test_positions_folded_into_queries_and_keys(side: int) -> None:
    attention = SamAttention(SAM, 8)
    randomise(attention)
    x = torch.randn(2, side, side, 24)
    torch.testing.assert_close(attention(x), defined(attention, x), rtol=0, atol=1e-5)


@torch.inference_mode()
def test_zeros_that_pad_windows_are_attended_to() -> None:
    block = SamBlock(SAM, window=5)
    randomise(block)
    y = torch.randn(1, 8, 8, 24)
    mixed = block.attn.in_windows(y, 5)
    corner = F.pad(y[:, 5:, 5:], (0, 0, 0, 2, 0, 2))
    expected = defined(block.attn, corner)[:, :3, :3]
    torch.testing.assert_close(mixed[:, 5:, 5:], expected, rtol=0, atol=1e-5)


def test_relative_positions_are_query_minus_key() -> None:
    table = torch.arange(9.0)[:, None]
    spread = relative_positions(table, 5)[..., 0]
    assert spread[0].tolist() == [4, 3, 2, 1, 0]
    assert spread[4].tolist() == [8, 7, 6, 5, 4]


def test_tables_keep_their_dtype_when_resized() -> None:
    table = torch.randn(8, 8, 4)
    exact = resize_grid(table, 5)
    rounded = resize_grid(table.bfloat16(), 5)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, rtol=0, atol=2e-2)
    assert resize_grid(table, 8) is table


@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (3, 2), (4, 1)])
def test_order_of_a_pages_vision_tokens(grid: Grid) -> None:
    """Local map, global map, separator; each row ends in a newline. Marks instead of features."""
    model = DeepseekOCR(ModelConfig.from_dict(toy_config()))
    model.image_newline.data.fill_(-1)
    model.view_separator.data.fill_(-2)
    n, m, (columns, rows) = 4, 2, grid
    tiles = columns * rows if grid != (1, 1) else 0
    tokens = torch.arange(tiles * m * m + n * n, dtype=torch.float32)
    marks = tokens[:, None].expand(-1, model.config.hidden_size)
    local, whole = marks[: tiles * m * m].unflatten(0, (tiles, m * m)), marks[tiles * m * m :]

    expected: list[float] = []
    for y in range(rows * m if tiles else 0):
        for x in range(columns * m):
            tile = (y // m) * columns + x // m
            expected.append(tile * m * m + (y % m) * m + x % m)
        expected.append(-1)
    for y in range(n):
        expected += [tiles * m * m + y * n + x for x in range(n)] + [-1]
    expected.append(-2)
    assert model.image_sequence(whole, local, grid)[:, 0].tolist() == expected
