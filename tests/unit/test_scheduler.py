"""Which pages run and how the cache is shared out; numbers only."""

from collections import deque
from pathlib import Path

import numpy as np
import pytest

from docr.engine.scheduler import BLOCK, BLOCK_TOKENS, HEADROOM, BatchLimit, Scheduler
from docr.engine.sequence import Sequence
from docr.types import PageRef


def page(number: int, *, prompt: int = 100, new: int = 1000, generated: int = 0) -> Sequence:
    return Sequence(
        ref=PageRef(Path("a.pdf"), number),
        input_ids=np.zeros(prompt, np.int64),
        image_mask=np.zeros(prompt, np.bool_),
        views=None,
        max_new_tokens=new,
        arrival=number,
        token_ids=[7] * generated,
    )


def filled(scheduler: Scheduler, pages: list[Sequence]) -> list[Sequence]:
    for each in pages:
        scheduler.add(each)
    admitted, too_large = scheduler.admit()
    assert not too_large
    return admitted


def test_pages_are_admitted_in_order_up_to_the_batch_size() -> None:
    scheduler = Scheduler(max_pages=3, cache_tokens=100_000)
    pages = [page(i) for i in range(5)]
    assert filled(scheduler, pages) == pages[:3]
    assert scheduler.running == pages[:3]
    assert scheduler.pending == 5
    scheduler.remove(pages[0])
    assert scheduler.running == [pages[2], pages[1]], "the last takes the free row"
    assert scheduler.admit() == ([pages[3]], [])


def test_the_line_is_a_little_longer_than_the_batch() -> None:
    scheduler = Scheduler(max_pages=16, cache_tokens=100_000)
    assert scheduler.wanted == 20
    filled(scheduler, [page(i) for i in range(20)])
    assert (len(scheduler.running), scheduler.wanted) == (16, 0)


def test_with_many_rows_pages_are_admitted_in_bursts() -> None:
    scheduler = Scheduler(max_pages=64, cache_tokens=10_000_000)
    pages = [page(i) for i in range(80)]
    filled(scheduler, pages)
    for done in pages[:3]:
        scheduler.remove(done)
        assert scheduler.admit() == ([], [])
    scheduler.remove(pages[3])
    assert scheduler.admit() == (pages[64:68], [])


def test_the_last_pages_do_not_wait_for_a_burst() -> None:
    scheduler = Scheduler(max_pages=64, cache_tokens=10_000_000)
    pages = [page(i) for i in range(65)]
    filled(scheduler, pages)
    scheduler.remove(pages[0])
    assert scheduler.admit() == ([pages[64]], [])


def test_admission_leaves_room_to_generate() -> None:
    scheduler = Scheduler(max_pages=8, cache_tokens=4 * BLOCK)
    pages = [page(i, prompt=BLOCK) for i in range(4)]
    assert filled(scheduler, pages) == pages[:2], "prompt and headroom: two blocks a page"
    assert scheduler.row_length == BLOCK + HEADROOM


def test_a_page_that_ends_early_needs_no_headroom() -> None:
    scheduler = Scheduler(max_pages=8, cache_tokens=4 * BLOCK)
    pages = [page(i, prompt=BLOCK - 10, new=10) for i in range(4)]
    assert filled(scheduler, pages) == pages


def test_rows_are_shortened_only_for_more_pages() -> None:
    scheduler = Scheduler(max_pages=4, cache_tokens=4 * 3 * BLOCK)
    long = page(0, prompt=5 * BLOCK, new=BLOCK)
    assert filled(scheduler, [long]) == [long]
    assert scheduler.row_length == 6 * BLOCK
    short = [page(i, prompt=BLOCK) for i in (1, 2, 3, 4)]
    assert filled(scheduler, short) == [short[0]]
    scheduler.remove(long)
    assert scheduler.admit() == (short[1:], [])
    assert scheduler.row_length == 2 * BLOCK, "prompt and headroom"


def test_rows_grow_and_the_youngest_page_makes_room() -> None:
    scheduler = Scheduler(max_pages=4, cache_tokens=4 * BLOCK)
    pages = [page(i, prompt=BLOCK - 10, new=10 + 600 * (i == 0)) for i in range(2)]
    filled(scheduler, pages)
    assert scheduler.row_length == 2 * BLOCK
    pages[0].token_ids += [7] * (BLOCK + 5)
    assert scheduler.reserve(8) == []
    assert scheduler.running == [pages[0]]
    assert scheduler.row_length == 3 * BLOCK
    assert scheduler.pending == 2


def test_a_page_put_back_returns_first_and_only_after_another_has_finished() -> None:
    scheduler = Scheduler(max_pages=2, cache_tokens=4 * BLOCK)
    pages = [page(i, prompt=BLOCK, new=3 * BLOCK) for i in range(3)]
    filled(scheduler, pages)
    for running in scheduler.running:
        running.token_ids += [7] * (BLOCK - 2)
    assert scheduler.reserve(8) == []
    assert scheduler.running == [pages[0]]
    assert scheduler.admit() == ([], []), "it would soon be put back again"
    scheduler.remove(pages[0])
    assert scheduler.admit() == ([pages[1]], [])
    assert len(pages[1].token_ids) == BLOCK - 2, "it keeps what it has"


def test_pages_too_large_for_the_whole_cache_are_told_apart() -> None:
    scheduler = Scheduler(max_pages=2, cache_tokens=4 * BLOCK)
    large, small = page(0, prompt=5 * BLOCK), page(1)
    scheduler.add(large)
    scheduler.add(small)
    assert scheduler.admit() == ([small], [large])
    assert scheduler.pending == 1


def test_a_page_that_outgrows_the_whole_cache_is_taken_out() -> None:
    scheduler = Scheduler(max_pages=2, cache_tokens=2 * BLOCK)
    grown, waiting = page(0, prompt=BLOCK), page(1)
    filled(scheduler, [grown, waiting])
    grown.token_ids += [7] * BLOCK
    assert scheduler.reserve(8) == [grown]
    assert scheduler.running == []
    assert scheduler.admit() == ([waiting], [])


def test_halving_puts_the_youngest_back() -> None:
    scheduler = Scheduler(max_pages=5, cache_tokens=100_000)
    pages = [page(i) for i in range(5)]
    filled(scheduler, pages)
    scheduler.halve()
    assert scheduler.running == pages[:2]
    assert scheduler.max_pages == 2
    scheduler.remove(pages[0])
    assert scheduler.admit() == ([pages[2]], [])


def test_pages_that_take_blocks_need_no_rows_of_one_length() -> None:
    pages = [page(0, prompt=1000), *(page(i, prompt=64, new=64) for i in range(1, 5))]
    tokens = 1000 + HEADROOM + 4 * 128 + BLOCK_TOKENS
    assert filled(Scheduler(max_pages=9, cache_tokens=tokens), pages) == pages[:1]
    in_blocks = Scheduler(max_pages=9, cache_tokens=tokens, in_blocks=True)
    assert filled(in_blocks, pages) == pages


@pytest.mark.parametrize("in_blocks", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_every_page_ends_and_the_cache_is_never_exceeded(seed: int, in_blocks: bool) -> None:
    random = np.random.default_rng(seed)
    cache_tokens = int(random.integers(4, 20)) * BLOCK
    max_pages = int(random.integers(1, 9))
    scheduler = Scheduler(max_pages=max_pages, cache_tokens=cache_tokens, in_blocks=in_blocks)
    todo = [
        page(i, prompt=int(random.integers(10, 1500)), new=int(random.integers(1, 1500)))
        for i in range(40)
    ]
    ended = []
    for _ in range(100_000):
        while todo and scheduler.wanted:
            scheduler.add(todo.pop())
        ended += scheduler.admit()[1]
        ended += scheduler.reserve(8)
        assert len(scheduler.running) <= scheduler.max_pages
        if in_blocks:
            ahead = [min(each.length + 8, each.max_length) for each in scheduler.running]
            assert sum(-(-n // BLOCK_TOKENS) * BLOCK_TOKENS for n in ahead) <= cache_tokens
        else:
            assert len(scheduler.running) * scheduler.row_length <= cache_tokens
        for running in list(scheduler.running):
            running.token_ids += [7] * min(8, running.max_length - running.length)
            assert in_blocks or running.length <= scheduler.row_length
            if running.length == running.max_length:
                scheduler.remove(running)
                ended.append(running)
        if not todo and not scheduler.pending:
            break
    assert len(ended) == len(set(ended)) == 40


class TestBatchLimit:
    def test_counts_padding(self) -> None:
        items = deque([100, 90, 80, 79])
        assert BatchLimit(300).take(items, int, padding=0.2) == [100, 90, 80]
        assert list(items) == [79]

    def test_leaves_what_would_be_mostly_padding(self) -> None:
        assert BatchLimit(1000).take(deque([100, 79]), int, padding=0.2) == [100]

    def test_always_takes_one(self) -> None:
        assert BatchLimit(10).take(deque([100, 100]), int, padding=0) == [100]

    def test_is_halved_from_what_was_too_much(self) -> None:
        limit = BatchLimit(1_000_000)
        limit.halve(400)
        assert limit.take(deque([100] * 4), int, padding=0) == [100, 100]
