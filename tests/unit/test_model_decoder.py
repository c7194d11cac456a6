"""The decoder's own promises: caching, masking and batching change nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from docr.engine.model.decoder import MoE, attend
from docr.engine.model.deepseek_ocr import DeepseekOCR
from docr.engine.model.load import load_model
from scripts.make_random_checkpoint import toy_config, write_checkpoint

CLOSE = {"rtol": 0, "atol": 2e-5}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DeepseekOCR:
    folder: Path = tmp_path_factory.mktemp("toy")
    write_checkpoint(folder, toy_config(), dtype="fp32")
    return load_model(folder, device="cpu", dtype=torch.float32)


@pytest.fixture(autouse=True)
def seeded_on_one_thread() -> Iterator[None]:
    """Networks this small lose more to threads waiting for each other than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


class PaddedCache:
    """Rows of different lengths in one block of memory; `ends` is where each row's tokens end."""

    def __init__(self, ends: list[int], room: int) -> None:
        self.ends, self.room = torch.tensor(ends), room
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        B, H, T, hd = k.shape
        if T > 1:  # prefill, padded on the right: rows write over the padding later
            noise = [torch.randn(B, H, self.room - T, hd) for _ in range(2)]
            self.kept[layer] = torch.cat((k, noise[0]), 2), torch.cat((v, noise[1]), 2)
            return attend(q, k, v, None)
        all_k, all_v = self.kept[layer]
        rows = torch.arange(B)
        all_k[rows, :, self.ends] = k[:, :, 0]
        all_v[rows, :, self.ends] = v[:, :, 0]
        visible = torch.arange(self.room)[None] <= self.ends[:, None]
        return attend(q, all_k, all_v, visible[:, None, None])


@torch.inference_mode()
def test_decoding_through_a_cache_equals_reading_at_once(model: DeepseekOCR) -> None:
    lengths, new = [9, 5, 12], 6
    texts = [torch.randint(0, 320, (18,)) for _ in lengths]
    whole = [model(model.embed(text)[None], torch.arange(len(text))[None])[0] for text in texts]

    prefill = max(lengths)
    ids = torch.stack([text[:prefill] for text in texts])  # rows beyond a length are overwritten
    cache = PaddedCache(lengths, room=prefill + new)
    positions = torch.arange(prefill)[None].expand(len(texts), -1)
    hidden = model(model.embed(ids), positions, cache)
    for row, length in enumerate(lengths):
        torch.testing.assert_close(hidden[row, :length], whole[row][:length], **CLOSE)
    for _ in range(new):
        at = cache.ends.clone()
        step = torch.stack([text[i] for text, i in zip(texts, at, strict=True)])[:, None]
        hidden = model(model.embed(step), at[:, None], cache)
        for row, i in enumerate(at):
            torch.testing.assert_close(hidden[row, 0], whole[row][i], **CLOSE)
        cache.ends += 1


@torch.inference_mode()
def test_several_new_tokens_may_see_a_prefix(model: DeepseekOCR) -> None:
    """A mask of many queries, as a prompt read in pieces needs it."""
    text = torch.randint(0, 320, (1, 11))
    whole = model(model.embed(text), torch.arange(11)[None])

    class Prefix:
        def __init__(self) -> None:
            self.kept: dict[int, tuple[Tensor, Tensor]] = {}

        def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if layer in self.kept:
                old_k, old_v = self.kept[layer]
                k, v = torch.cat((old_k, k), 2), torch.cat((old_v, v), 2)
                seen = torch.ones(11, 11, dtype=torch.bool).tril()[None, None, 4:]
                return attend(q, k, v, seen)
            self.kept[layer] = k, v
            return attend(q, k, v, None)

    cache = Prefix()
    model(model.embed(text[:, :4]), torch.arange(4)[None], cache)
    rest = model(model.embed(text[:, 4:]), torch.arange(4, 11)[None], cache)
    torch.testing.assert_close(rest, whole[:, 4:], **CLOSE)


@torch.inference_mode()
def test_rows_of_a_batch_are_independent(model: DeepseekOCR) -> None:
    x = model.embed(torch.randint(0, 320, (4, 10)))
    positions = torch.arange(10)[None]
    together = model(x, positions.expand(4, -1))
    alone = torch.cat([model(row[None], positions) for row in x])
    torch.testing.assert_close(together, alone, **CLOSE)


@torch.inference_mode()
def test_experts_are_weighted_by_their_probability(model: DeepseekOCR) -> None:
    """Against the definition: every expert over every token, those not chosen times zero."""
    moe = model.decoder.layers[1].mlp
    assert isinstance(moe, MoE)
    x = torch.randn(2, 7, 64)
    probabilities = (x @ moe.gate.T).softmax(-1)
    smallest = probabilities.topk(moe.top_k, -1).values[..., -1:]
    weights = probabilities * (probabilities >= smallest)
    assert float(weights.sum(-1).max()) < 1  # not renormalised
    expected = moe.shared_experts(x)
    for expert in range(moe.experts.count):
        gate, up = (x @ moe.experts.gate_up_proj[expert].T).chunk(2, -1)
        y = (F.silu(gate) * up) @ moe.experts.down_proj[expert].T
        expected = expected + weights[..., expert, None] * y
    torch.testing.assert_close(moe(x), expected, **CLOSE)


@torch.inference_mode()
@pytest.mark.parametrize("rows", [1, 5, 64])
def test_grouped_products_mix_the_same(tmp_path: Path, rows: int) -> None:
    write_checkpoint(tmp_path, toy_config())
    moe = load_model(tmp_path, device="cpu", dtype=torch.bfloat16).decoder.layers[1].mlp
    assert isinstance(moe, MoE)
    x = torch.randn(rows, 64, dtype=torch.bfloat16)
    weights, experts = moe.route(x)
    if rows == 5:
        experts[:] = experts[0]  # experts without a row, too
    wanted = moe.experts(x, weights, experts)
    got = moe.experts.mix_grouped(x, weights, experts)
    torch.testing.assert_close(got, wanted, rtol=2e-2, atol=2e-2 * float(wanted.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("masked", [True, False])
def test_one_query_attends_as_many_do(dtype: torch.dtype, masked: bool) -> None:
    keys = 9 if masked else 1
    q, k, v = (torch.randn(2, 3, n, 16, dtype=dtype) for n in (1, keys, keys))
    mask = (torch.arange(keys) < torch.tensor([[4], [9]]))[:, None, None] if masked else None
    expected = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask)
    tolerance = 2e-6 if dtype is torch.float32 else 2e-2
    torch.testing.assert_close(attend(q, k, v, mask).float(), expected, rtol=0, atol=tolerance)
    assert torch.backends.mkldnn.enabled  # it is off for a moment


@torch.inference_mode()
def test_logits_are_fp32_whatever_the_weights_are(model: DeepseekOCR, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, toy_config())
    half = load_model(tmp_path, device="cpu", dtype=torch.bfloat16)
    ids = torch.randint(0, 320, (1, 5))
    hidden = half(half.embed(ids), torch.arange(5)[None])
    assert hidden.dtype == torch.bfloat16
    logits = half.logits(hidden)
    assert logits.dtype == torch.float32 and logits.shape == (1, 5, 320)
    exact = model.logits(model(model.embed(ids), torch.arange(5)[None]))
    assert float((logits - exact).square().mean() / exact.square().mean()) < 0.01
