"""Decoding without the host, on a CPU and uncaptured: the same pages as decoding step by step."""

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch

from docr.engine.detokenize import Detokenizer
from docr.engine.device_drafts import follow, propose
from docr.engine.device_loop import ROWS, STEPS, rows_for
from docr.engine.engine import ModelEngine
from docr.engine.factory import create_engine
from docr.engine.model.deepseek_ocr import DeepseekOCR
from docr.engine.model.load import load_model
from docr.engine.runner import Runner
from docr.types import PageFailure, PageInputs
from tests.fakes.pages import page_inputs
from tests.unit.test_engine import (
    Outcomes,
    completions,
    run,
    token_ids,
    toy_engine_config,
    with_layers,
    write_toy,
)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("toy"))


PAGES = [page_inputs(number, text=number) for number in range(1, 8)]


def device_engine(toy: Path, model: DeepseekOCR | None = None, **options: object) -> ModelEngine:
    """An engine whose pages are decoded as on a GPU."""
    config = toy_engine_config(toy, **options)
    detokenizer = Detokenizer(toy / "tokenizer.json")
    model = model or load_model(toy, device="cpu", dtype=torch.float32)
    return ModelEngine(config, Runner(model, detokenizer, config, on_device=True), detokenizer)


def both(
    toy: Path, pages: Iterable[PageInputs] = PAGES, **options: object
) -> tuple[Outcomes, Outcomes]:
    pages = list(pages)
    plain = run(create_engine(toy_engine_config(toy, **{**options, "drafts": False})), pages)
    return plain, run(device_engine(toy, **options), pages)


def assert_same(plain: Outcomes, got: Outcomes) -> None:
    assert token_ids(got) == token_ids(plain)
    for number, done in completions(got).items():
        before = completions(plain)[number]
        assert (done.text, done.finish_reason) == (before.text, before.finish_reason)
        assert done.mean_logprob == pytest.approx(before.mean_logprob, abs=1e-4)
        assert done.min_logprob == pytest.approx(before.min_logprob, abs=1e-4)


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_the_text_is_the_same(toy: Path, batch_size: int) -> None:
    assert_same(*both(toy, batch_size=batch_size, max_tokens=60, ngram_window=60))


@pytest.mark.parametrize("most", [1, 2, 7, 8, 9, 41])
def test_pages_end_where_they_must(toy: Path, most: int) -> None:
    plain, got = both(toy, max_tokens=most)
    assert_same(plain, got)
    assert all(len(ids) == most for ids in token_ids(got).values())


@pytest.mark.parametrize("batch_size", [1, 4])
def test_drafts_change_the_steps_and_not_the_text(toy: Path, batch_size: int) -> None:
    options = {"max_tokens": 60, "ngram_window": 60, "batch_size": batch_size}
    plain, _ = both(toy, **options)
    random = np.random.default_rng(0)
    layers = []
    for spoilt, ids in zip((999, 3, 5, 9, 2, 1, 20), token_ids(plain).values(), strict=True):
        wrong = random.integers(300, size=len(ids)).tolist()
        layers.append([wrong[i] if i % spoilt == spoilt - 1 else t for i, t in enumerate(ids)])
    got = run(device_engine(toy, **options), with_layers(PAGES, layers))
    assert_same(plain, got)
    exact = completions(got)[1]
    assert exact.accepted > 40 and exact.accepted <= exact.drafted
    assert completions(got)[6].accepted < 10


def test_with_a_cache_that_hardly_suffices(toy: Path) -> None:
    """Pages are put back and prefilled again, into blocks that others had."""
    options = {"max_tokens": 150, "ngram_window": 60, "batch_size": 4}
    plain, _ = both(toy, **options)
    layers = [list(ids) for ids in token_ids(plain).values()]
    got = run(device_engine(toy, **options, cache_tokens=640), with_layers(PAGES, layers))
    assert_same(plain, got)


def test_a_page_ends_at_its_end_of_sequence(toy: Path) -> None:
    plain, _ = both(toy)
    chosen = completions(plain)[1].token_ids[5]
    model = load_model(toy, device="cpu", dtype=torch.float32)
    eos = Detokenizer(toy / "tokenizer.json").eos_id
    head = model.lm_head.weight
    head[eos], head[chosen] = head[chosen].clone(), head[eos].clone()
    done = completions(run(device_engine(toy, model), PAGES))[1]
    assert done.finish_reason == "stop"
    assert done.token_ids[:-1] == completions(plain)[1].token_ids[: len(done.token_ids) - 1]


def test_a_page_of_numbers_that_are_none_fails_alone(toy: Path) -> None:
    model = load_model(toy, device="cpu", dtype=torch.float32)
    plain = run(device_engine(toy, model), PAGES[:3])
    spoilt = completions(plain)[2].token_ids[3]
    assert all(spoilt not in ids for k, ids in token_ids(plain).items() if k != 2)
    model.embed_tokens[spoilt] = math.nan
    got = run(device_engine(toy, model), PAGES[:3])
    failure = got.pop(2)
    assert isinstance(failure, PageFailure) and failure.code == "internal"
    assert token_ids(got) == {k: ids for k, ids in token_ids(plain).items() if k != 2}


def test_rows_are_the_least_that_hold_the_pages() -> None:
    assert [rows_for(n) for n in (1, 3, 8, 9, 200, 512, 513)] == [1, 4, 8, 16, 224, 512, 513]
    assert list(ROWS) == sorted(set(ROWS)) and STEPS > 1


def guess(layer: list[int], text: list[int], place: int = 0, blind: int = 0) -> list[int]:
    width, back = 40, 30
    layer_row = torch.full((1, width), -1)
    layer_row[0, : len(layer)] = torch.tensor(layer, dtype=torch.long)
    recent = torch.full((1, back), -1)
    if text:
        recent[0, -len(text[-back:]) :] = torch.tensor(text[-back:])
    at = torch.tensor([[place], [blind]])
    return propose(layer_row, recent, at[0], at[1], 4)[0].tolist()


def test_guesses() -> None:
    layer = list(range(10, 40))
    assert guess(layer, []) == [10, 11, 12, 13], "it begins with the layer"
    assert guess(layer, [10, 11, 12, 13]) == [14, 15, 16, 17]
    assert guess(layer, [99, 20, 21], place=11) == [22, 23, 24, 25], "two tokens, near"
    assert guess(layer, [20, 99], place=12, blind=1) == [22, 23, 24, 25], "one differs"
    assert guess(layer, [91, 92, 93], place=12, blind=9) == [-1] * 4, "lost"
    assert guess([], [1, 2, 3, 4, 5, 6, 1, 2, 3, 4]) == [5, 6, 1, 2], "its own text"
    assert guess([], [1, 2, 3]) == [-1] * 4
    assert guess(layer, [36, 37, 38, 39], place=30) == [-1] * 4, "the layer ends"
    assert guess(layer, [34, 35, 36, 37]) == [38, 39, -1, -1]


def test_the_nearest_place_is_meant() -> None:
    layer = [1, 2, 3, 4, 50, 51, 1, 2, 3, 4, 60, 61]
    assert guess(layer, [1, 2, 3, 4], place=4)[0] == 50
    assert guess(layer, [1, 2, 3, 4], place=10)[0] == 60


def test_the_place_goes_on_with_the_text() -> None:
    layer = torch.tensor([[*range(10, 30), -1]])
    recent = torch.tensor([[-1, -1, 10, 11, 12, 13]])
    zero = torch.zeros(1, dtype=torch.long)
    place, blind = follow(layer, recent, zero, zero, zero + 3)
    assert (int(place), int(blind)) == (7, 3)
    lost, blind = follow(layer, recent * 0 + 99, place, blind, zero + 2)
    assert (int(lost), int(blind)) == (9, 5)
