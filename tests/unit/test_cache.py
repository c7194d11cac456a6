"""The KV cache against one that keeps every page apart."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import docr.engine.scheduler as scheduling
from docr.engine.cache import KEY_STEP, CacheSize, Decoding, KVCache, bytes_per_token
from docr.engine.model.decoder import attend
from docr.engine.scheduler import BLOCK, Scheduler
from docr.engine.sequence import Sequence
from docr.types import PageRef

LAYERS, HEADS, HEAD_DIM = 2, 3, 4


def make_cache(tokens: int) -> KVCache:
    return KVCache(cache_size(tokens))


def cache_size(tokens: int) -> CacheSize:
    return CacheSize(
        layers=LAYERS,
        heads=HEADS,
        head_dim=HEAD_DIM,
        tokens=tokens,
        longest=4 * BLOCK,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )


def page(number: int, prompt: int, new: int) -> Sequence:
    mask = np.zeros(prompt, np.bool_)
    return Sequence(
        PageRef(Path("a.pdf"), number), np.zeros(prompt, np.int64), mask, None, new, number
    )


def as_one(view: Decoding, tokens: Tensor) -> Tensor:
    """A token of each page [B,H,1,hd] as the sequence [1,H,T,hd] that the model sees."""
    one = tokens.permute(2, 1, 0, 3)
    return one[:, :, torch.arange(view.positions.shape[1]).clamp_(max=len(tokens) - 1)]


class Apart:
    """What a cache must hold: keys and values of each page, layer by layer, never shared."""

    def __init__(self) -> None:
        self.kept: dict[Sequence, list[tuple[Tensor, Tensor]]] = {}
        self.generator = torch.Generator().manual_seed(0)

    def fresh(self, pages: int, tokens: int) -> Tensor:
        return torch.randn(pages, HEADS, tokens, HEAD_DIM, generator=self.generator)

    def prefill(self, cache: KVCache, pages: list[Sequence]) -> None:
        view = cache.prefilling(pages)
        longest = max(page.length for page in pages)
        for layer in range(LAYERS):
            q, k, v = (self.fresh(len(pages), longest) for _ in range(3))
            assert torch.equal(view.attend(layer, q, k, v), attend(q, k, v, None))
            for page, key, value in zip(pages, k, v, strict=True):
                own = (key[:, : page.length], value[:, : page.length])
                if layer == 0:
                    self.kept[page] = []
                self.kept[page].append(own)
        for page in pages:
            page.append(7, -1.0)

    def decode(self, cache: KVCache, pages: list[Sequence]) -> None:
        view = cache.decoding(pages)
        ends = [page.length - 1 for page in pages]
        assert view.positions[0, : len(pages)].tolist() == ends
        for layer in range(LAYERS):
            k, v = self.fresh(len(pages), 1), self.fresh(len(pages), 1)
            keys, values, mask = view.extend(layer, as_one(view, k), as_one(view, v))
            assert mask.dtype == torch.bool
            assert mask.shape == (len(pages), 1, 1, keys.shape[2])
            for row, page in enumerate(pages):
                before = self.kept[page][layer]
                after = (torch.cat((before[0], k[row]), 1), torch.cat((before[1], v[row]), 1))
                self.kept[page][layer] = after
                seen = mask[row, 0, 0]
                assert int(seen.sum()) == page.length and seen[: page.length].all()
                assert torch.equal(keys[row][:, seen], after[0])
                assert torch.equal(values[row][:, seen], after[1])
        for page in pages:
            page.append(7, -1.0)


@pytest.mark.parametrize("seed", range(12))
def test_holds_what_each_page_put_in_whatever_moves(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduling, "BLOCK", 16)
    monkeypatch.setattr(scheduling, "HEADROOM", 8)
    random = np.random.default_rng(seed)
    tokens = int(random.integers(6, 14)) * 16
    scheduler = Scheduler(max_pages=int(random.integers(2, 6)), cache_tokens=tokens)
    cache, apart = make_cache(tokens), Apart()
    pages = [page(i, int(random.integers(3, 50)), int(random.integers(1, 40))) for i in range(8)]
    for each in pages:
        scheduler.add(each)
    while scheduler.pending:
        admitted, _ = scheduler.admit()
        cache.arrange(scheduler.running, scheduler.row_length)
        if admitted:
            apart.prefill(cache, admitted)
        for each in [each for each in scheduler.running if each.length >= each.max_length]:
            scheduler.remove(each)
        scheduler.reserve(8)
        cache.arrange(scheduler.running, scheduler.row_length)
        for _ in range(8):
            if not scheduler.running:
                break
            apart.decode(cache, list(scheduler.running))
            done = [each for each in scheduler.running if each.length >= each.max_length]
            for each in done:
                scheduler.remove(each)
            if done:
                break
    assert len(apart.kept) == len(pages)


def test_pages_with_longer_and_shorter_drafts() -> None:
    cache, apart = make_cache(4 * BLOCK), Apart()
    pages = [page(i, 20 + i, 50) for i in range(3)]
    cache.arrange(pages, BLOCK)
    apart.prefill(cache, pages)
    counts = (4, 1, 2)
    for each, draft in zip(pages, ([1, 2, 3], [], [4]), strict=True):
        each.draft = draft
    view = cache.decoding(pages)
    begins = [each.length - 1 for each in pages]
    expected = [begins[0] + n for n in range(4)] + [begins[1], begins[2], begins[2] + 1]
    assert view.positions.tolist() == [expected + expected[-1:]]  # 7 tokens, computed as 8
    assert view.starts.tolist() == [0, 4, 5, 8]
    q, k = (
        torch.cat((new, new[:, :, -1:]), dim=2) for new in (apart.fresh(1, 7) for _ in range(2))
    )
    mixed = view.attend(0, q, k, k)
    keys, values, mask = view.extend(0, k, k)
    assert mask.shape == (3, 1, 5, BLOCK if 2 * KEY_STEP > BLOCK else KEY_STEP)
    for row, (each, count) in enumerate(zip(pages, counts, strict=True)):
        first, begin = sum(counts[:row]), each.length - 1
        new = k[0, :, first : first + count]
        own = [torch.cat((before, new), 1) for before in apart.kept[each][0]]
        assert torch.equal(keys[row, :, : begin + count], own[0])
        assert torch.equal(values[row, :, : begin + count], own[1])
        assert not keys[row, :, begin + count :].any()
        for n in range(count):
            seen = [part[None, :, : begin + n + 1] for part in own]
            alone = torch.nn.functional.scaled_dot_product_attention(
                q[:, :, first + n : first + n + 1], *seen
            )
            torch.testing.assert_close(mixed[:, :, first + n : first + n + 1], alone)
    assert torch.equal(mixed[:, :, 7], mixed[:, :, 6])


@pytest.mark.parametrize(("row_length", "keys"), [(BLOCK, KEY_STEP), (2 * KEY_STEP - 1, None)])
def test_decoding_reads_the_cache_in_place(row_length: int, keys: int | None) -> None:
    """Short rows whole: a part of them would be copied. Of long ones what the pages need."""
    cache, apart = make_cache(4 * BLOCK), Apart()
    pages = [page(i, 20, 50) for i in range(2)]
    cache.arrange(pages, row_length)
    apart.prefill(cache, pages)
    view = cache.decoding(pages)
    first = view.extend(0, apart.fresh(1, 2), apart.fresh(1, 2))[0]
    second = view.extend(0, apart.fresh(1, 2), apart.fresh(1, 2))[0]
    assert first.data_ptr() == second.data_ptr()
    assert first.shape == (2, HEADS, keys or row_length, HEAD_DIM)  # 21 tokens, the rest masked
    assert first.is_contiguous() == (keys is None)


def test_rows_that_change_length_keep_their_tokens() -> None:
    cache, apart = make_cache(8 * BLOCK), Apart()
    pages = [page(i, 100 + i, 50) for i in range(2)]
    cache.arrange(pages, BLOCK)
    apart.prefill(cache, pages)
    for row_length in (4 * BLOCK, BLOCK, 2 * BLOCK, 3 * BLOCK, 2 * BLOCK):
        cache.arrange(pages, row_length)
        assert cache.row_length == row_length
        apart.decode(cache, pages)  # compares


def test_what_is_not_finite_stays_with_its_page() -> None:
    cache, apart = make_cache(4 * BLOCK), Apart()
    spoilt, other, third = page(0, 100, 50), page(1, 10, 50), page(2, 12, 50)
    cache.arrange([spoilt, other], BLOCK)
    apart.prefill(cache, [spoilt, other])
    nan = torch.full((1, HEADS, 2, HEAD_DIM), torch.nan)
    nan[:, :, 1] = 0
    for layer in range(LAYERS):
        cache.decoding([spoilt, other]).extend(layer, nan, nan)
    cache.arrange([other, third], 2 * BLOCK)
    for layer in range(LAYERS):
        cache.prefilling([other, third]).attend(layer, *(apart.fresh(2, 12) for _ in range(3)))
        keys, values, _ = cache.decoding([other, third]).extend(
            layer, apart.fresh(1, 2), apart.fresh(1, 2)
        )
        assert keys.isfinite().all() and values.isfinite().all()


def test_bytes_per_token_of_the_released_model() -> None:
    assert bytes_per_token(layers=12, heads=10, head_dim=128, dtype=torch.bfloat16) == 61_440
