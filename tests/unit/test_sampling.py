"""The n-gram rule against a plain reading of it, and greedy choice."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from docr.engine.sampling import NgramRule, ban_repeats, pick

VECTORS = Path(__file__).parents[2] / "../shared/vectors/misc_cases.json"


def plain_rule(ids: list[int], n: int, window: int, exempt: set[int]) -> set[int]:
    """The rule as it would be told: look at every n-gram of the window."""
    if len(ids) < n:
        return set()
    prefix = tuple(ids[len(ids) - n + 1 :])
    banned = set()
    for start in range(max(0, len(ids) - window), len(ids) - n + 1):
        *head, completion = ids[start : start + n]
        if n > 1 and tuple(head) == prefix:
            banned.add(completion)
    return banned - exempt


@pytest.mark.skipif(not VECTORS.exists(), reason="the reference vectors are not beside the project")
def test_bans_what_the_official_script_bans() -> None:
    cases = json.loads(VECTORS.read_text(encoding="utf-8"))["ngram"]
    assert len(cases) > 40
    for case in cases:
        rule = NgramRule(case["ngram"], case["window"], frozenset(case["whitelist"]))
        assert sorted(rule.banned(case["ids"])) == sorted(case["banned_vllm_repo"]), case


def test_agrees_with_the_plain_rule_on_thousands_of_rows() -> None:
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(6000):
        n, window = int(random.integers(2, 6)), int(random.integers(1, 30))
        ids = random.integers(0, random.integers(2, 5), random.integers(0, 40)).tolist()
        exempt = set(random.integers(0, 5, random.integers(0, 3)).tolist())
        expected = plain_rule(ids, n, window, exempt)
        assert NgramRule(n, window, frozenset(exempt)).banned(ids) == expected
        hits += bool(expected)
    assert hits > 1000


def test_official_settings_on_a_long_loop() -> None:
    rule = NgramRule(30, 90)
    unit = list(range(100, 140))
    assert rule.banned(unit + unit[:29]) == {unit[29]}
    assert rule.banned(list(range(61)) * 2) == {0}, "a cycle just short enough for the window"
    assert rule.banned(list(range(62)) * 2) == set(), "and one that is too long"


@pytest.mark.parametrize(("n", "window"), [(0, 90), (1, 90), (30, 0), (30, 29)])
def test_switched_off(n: int, window: int) -> None:
    assert NgramRule(n, window).banned([5] * 200) == set()


def test_table_cells_pass() -> None:
    ids = [1, 2] * 60
    assert NgramRule(30, 90).banned(ids) == {1}
    assert NgramRule(30, 90, frozenset({1, 2})).banned(ids) == set()


def logits_and_mask(rows: int = 3, vocabulary: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, vocabulary, generator=generator) * 4
    undecodable = torch.zeros(vocabulary, dtype=torch.bool)
    undecodable[40:] = True
    return logits, undecodable


def test_picks_the_likeliest_that_can_be_decoded() -> None:
    logits, undecodable = logits_and_mask()
    logits[0, 45] = 99.0
    expected = torch.log_softmax(logits[:, :40], dim=-1).max(-1)
    picks = pick(logits, undecodable=undecodable, banned=[(), (), ()])
    assert picks.token_ids == expected.indices.tolist()
    assert picks.logprobs == pytest.approx(expected.values.tolist(), abs=1e-5)


def test_a_ban_changes_the_choice_but_not_the_scale() -> None:
    logits, undecodable = logits_and_mask()
    logprobs = torch.log_softmax(logits[:, :40], dim=-1)
    first, second = logprobs[1].topk(2).indices.tolist()
    picks = pick(logits, undecodable=undecodable, banned=[(), {first}, ()])
    assert picks.token_ids[1] == second
    assert picks.logprobs[1] == pytest.approx(float(logprobs[1, second]), abs=1e-5)
    assert picks.token_ids[0] == int(logprobs[0].argmax())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_no_number_shows_in_the_logprob_of_its_row_only(bad: float) -> None:
    logits, undecodable = logits_and_mask()
    logits[1, 7] = bad
    picks = pick(logits, undecodable=undecodable, banned=[(), (), ()])
    assert [math.isfinite(value) for value in picks.logprobs] == [True, False, True]


@settings(max_examples=300, deadline=None)
@given(
    texts=st.lists(st.lists(st.integers(0, 4), max_size=60), min_size=1, max_size=4),
    n=st.integers(0, 6),
    window=st.integers(1, 40),
    exempt=st.frozensets(st.integers(0, 4), max_size=2),
)
def test_banning_many_texts_at_once_is_the_same_rule(
    texts: list[list[int]], n: int, window: int, exempt: frozenset[int]
) -> None:
    rule, width = NgramRule(n, window, exempt), 48
    ends = torch.full((len(texts), width), -1)
    for row, ids in zip(ends, texts, strict=True):
        if ids:
            row[-len(ids[-width:]) :] = torch.tensor(ids[-width:])
    logits = torch.zeros(len(texts), 5)
    ban_repeats(logits, ends, rule, torch.tensor(sorted(exempt), dtype=torch.int64))
    banned = [set(torch.nonzero(row == -torch.inf).flatten().tolist()) for row in logits]
    assert banned == [rule.banned(ids) for ids in texts]
    assert ((logits == 0) | (logits == -torch.inf)).all()
