"""Batching never changes a page: same tokens alone, in any company, in any order, and when memory
is so short that pages are put back and begun again. fp32 on the CPU, greedy."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from docr.engine import scheduler
from docr.engine.config import EngineConfig
from docr.engine.factory import create_engine
from docr.types import Completion, PageInputs
from scripts.make_random_checkpoint import toy_config, write_checkpoint
from tests.fakes.pages import page_inputs

SMALL = (
    page_inputs(1),
    page_inputs(2, text=40),
    page_inputs(3, base_px=192),
    page_inputs(4, base_px=192, tile_px=128, grid=(2, 1)),
    page_inputs(5, base_px=192, tile_px=128, grid=(2, 3), text=3),
    page_inputs(6, base_px=256),
    page_inputs(7, text=20),
)
"""Layouts of all modes at a fraction of their pixels."""

NEW = 32
"""Tokens generated a page."""

REAL = (
    page_inputs(1, base_px=512),
    page_inputs(2, base_px=640),
    page_inputs(3, base_px=1024),
    page_inputs(4, base_px=1024, tile_px=640, grid=(1, 2)),
)
"""Tiny, small, base and gundam, as they are."""


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    write_checkpoint(folder, toy_config(), seed=11)
    return folder


def generate(
    toy: Path, pages: Iterable[PageInputs], *, max_tokens: int, **options: int
) -> dict[int, Completion]:
    """All pages' results, by page number."""
    config = EngineConfig(
        model_dir=toy,
        device="cpu",
        dtype="float32",
        no_repeat_ngram=3,
        ngram_window=40,
        loop_stop=False,
        max_tokens=max_tokens,
        **options,
    )
    engine, waiting, done = create_engine(config), list(pages), dict[int, Completion]()
    while waiting or engine.pending:
        while waiting and engine.wants():
            engine.add(waiting.pop(0))
        for outcome in engine.step():
            assert isinstance(outcome, Completion), outcome
            done[outcome.ref.number] = outcome
    return done


def assert_same(got: Mapping[int, Completion], expected: Mapping[int, Completion]) -> None:
    assert set(got) == set(expected)
    for number, done in got.items():
        assert done.token_ids == expected[number].token_ids, f"page {number}"
        assert done.text == expected[number].text
        assert done.mean_logprob == pytest.approx(expected[number].mean_logprob, abs=1e-4)


@pytest.fixture(scope="module")
def alone(toy: Path) -> dict[int, Completion]:
    """Each small page in an engine of its own."""
    done: dict[int, Completion] = {}
    for page in SMALL:
        done |= generate(toy, [page], max_tokens=NEW)
    assert len({page.token_ids for page in done.values()}) == len(SMALL), "the pages matter"
    return done


orders = st.permutations(range(len(SMALL)))
few = settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@few
@given(order=orders, batch_size=st.sampled_from([1, 2, 5, 7]))
def test_company_and_order_do_not_matter(
    order: Sequence[int], batch_size: int, toy: Path, alone: dict[int, Completion]
) -> None:
    pages = [SMALL[i] for i in order]
    assert_same(generate(toy, pages, max_tokens=NEW, batch_size=batch_size), alone)


@few
@given(order=orders, cache_tokens=st.sampled_from([160, 256, 384]))
def test_pages_that_are_put_back_lose_nothing(
    order: Sequence[int], cache_tokens: int, toy: Path, alone: dict[int, Completion]
) -> None:
    pages = [SMALL[i] for i in order]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scheduler, "BLOCK", 16)
        patch.setattr(scheduler, "HEADROOM", 4)
        got = generate(toy, pages, max_tokens=NEW, batch_size=5, cache_tokens=cache_tokens)
    assert_same(got, alone)


def test_short_memory_does_put_pages_back(
    toy: Path, alone: dict[int, Completion], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.DEBUG, scheduler.__name__):
        patch.setattr(scheduler, "BLOCK", 16)
        patch.setattr(scheduler, "HEADROOM", 4)
        got = generate(toy, SMALL, max_tokens=NEW, batch_size=5, cache_tokens=256)
    assert any("put back" in record.message for record in caplog.records)
    assert_same(got, alone)


def test_real_modes_together(toy: Path) -> None:
    expected = generate(toy, REAL, max_tokens=24, batch_size=1)
    assert_same(generate(toy, reversed(REAL), max_tokens=24, batch_size=4), expected)
