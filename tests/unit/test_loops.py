"""Repetition: found where it is, and nowhere else."""

import timeit

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from docr.engine.loops import COPIES, PASSAGE, TABLE_REPEATED, find_loop

TD, END_TD, TR, END_TR = 1, 2, 3, 4
TABLE = frozenset({TD, END_TD, TR, END_TR})


def words(count: int, seed: int = 0) -> list[int]:
    """Prose: no two tokens alike."""
    return np.random.default_rng(seed).permutation(count * 10)[:count].astype(int).tolist()


def cells(*contents: list[int]) -> list[int]:
    row = [token for content in contents for token in (TD, *content, END_TD)]
    return [TR, *row, END_TR]


def first_stop(ids: list[int], **options: frozenset[int]) -> tuple[int, int] | None:
    """At what length a page writing `ids` is stopped, and how many tokens it keeps."""
    for length in range(1, len(ids) + 1):
        kept = find_loop(ids[:length], **options)
        if kept is not None:
            return length, kept
    return None


tokens = st.integers(5, 40)


@settings(max_examples=25, deadline=None)
@given(
    prefix=st.lists(tokens, max_size=80),
    seed=st.integers(0, 1000),
    period=st.integers(1, 200),
)
def test_a_loop_is_found_soon_and_its_first_copy_kept(
    prefix: list[int], seed: int, period: int
) -> None:
    unit = np.random.default_rng(seed).integers(5, 5000, period).tolist()
    bound = len(prefix) + COPIES * period + PASSAGE
    ids = (prefix + unit * (bound // period + 1))[:bound]
    stop = first_stop(ids)
    assert stop is not None
    length, kept = stop
    assert kept >= period
    again = ids[:kept]
    while len(again) < length:
        again.append(again[-period])
    assert again == ids[:length], "what was cut is what the copy before says"
    assert length - kept >= PASSAGE


@given(st.lists(tokens, max_size=400), st.integers(1, 6))
def test_it_never_fires_without_a_passage_seen_before(ids: list[int], times: int) -> None:
    ids = ids * times
    passages = [tuple(ids[i : i + PASSAGE]) for i in range(len(ids) - PASSAGE + 1)]
    if len(set(passages)) == len(passages):
        assert find_loop(ids) is None
    kept = find_loop(ids)
    assert kept is None or 0 < kept <= len(ids) - PASSAGE


def test_a_passage_that_keeps_coming_back_is_found() -> None:
    passage = words(90, seed=1)
    ids: list[int] = []
    for turn in range(5):
        ids += [100_000 + turn, *passage, 200_000 + turn]
    stop = first_stop(ids)
    assert stop is not None
    length, kept = stop
    assert length <= 4 * 92, "in its fourth copy"
    assert kept == 92 + 1, "up to where the second begins"


def test_the_same_paragraph_three_times_is_a_form() -> None:
    paragraph = words(150)
    ids = words(300, seed=2) + paragraph + [7, *paragraph] + [8, *paragraph] + words(50, seed=3)
    assert first_stop(ids) is None


def test_dots_are_cut_after_the_first() -> None:
    assert first_stop([10, 11, 12] + [9] * 200) == (3 + 1 + PASSAGE, 4)


@pytest.mark.parametrize(
    "table",
    [
        cells(*[[]] * 12) * 20,
        [TD, END_TD] * 200,
        cells(*[[30]] * 8) * 30,
        cells([31, 32], [33, 9, 34], [35]) * 40,
        [token for i in range(300) for token in cells([5000 + i], [], [], [36])],
    ],
    ids=["empty rows", "empty cells", "zeros", "equal rows", "numbered rows"],
)
def test_tables_are_no_loops(table: list[int]) -> None:
    ids = words(60) + table
    ids = ids[: 60 + TABLE_REPEATED]
    assert first_stop(ids, table_ids=TABLE) is None
    assert first_stop(ids + words(100, seed=4), table_ids=TABLE) is None


@pytest.mark.parametrize("row", [cells([], []), cells([30], [31, 32]), [TD, END_TD]])
def test_a_table_without_end_is_one(row: list[int]) -> None:
    ids = words(60) + row * (2 * TABLE_REPEATED // len(row))
    stop = first_stop(ids, table_ids=TABLE)
    assert stop is not None
    assert stop == (60 + len(row) + TABLE_REPEATED, 60 + len(row))


def test_a_full_context_costs_little() -> None:
    ids = np.random.default_rng(0).integers(5, 2000, 8192).tolist()
    seconds = timeit.timeit(lambda: find_loop(ids, table_ids=TABLE), number=20) / 20
    assert seconds < 0.02  # 0.4 ms on an idle core, once in 16 tokens
