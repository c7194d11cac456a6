"""Guesses follow the text layer and the page's own text, and stop where they do not come true."""

from hypothesis import given
from hypothesis import strategies as st

from docr.engine.drafts import BLIND, MAX_DRAFT, NEAR, Drafter

LAYER = list(range(100, 400))


def write(drafter: Drafter, text: list[int], *, begun: int = 0) -> int:
    """Write a text as the engine would; returns the steps it takes."""
    written, steps = text[:begun], 0
    while len(written) < len(text):
        guess = drafter.propose(written, len(text) - len(written) - 1)
        assert len(guess) <= max(0, min(MAX_DRAFT, len(text) - len(written) - 1))
        true = 0
        while true < len(guess) and guess[true] == text[len(written) + true]:
            true += 1
        drafter.learn(len(guess), true)
        written = text[: len(written) + true + 1]
        steps += 1
    return steps


def test_the_layer_is_followed_ever_further() -> None:
    drafter = Drafter(LAYER)
    assert drafter.propose(LAYER[:4], 8) == LAYER[4:6]
    drafter.learn(2, 2)
    assert drafter.propose(LAYER[:7], 8) == LAYER[7:11]
    drafter.learn(4, 4)
    assert drafter.propose(LAYER[:12], 8) == LAYER[12:20]
    assert drafter.propose(LAYER[:12], 3) == LAYER[12:15]
    assert (drafter.drafted, drafter.accepted) == (6, 6)


def test_a_text_like_its_layer_takes_a_fraction_of_the_steps() -> None:
    assert write(Drafter(LAYER), LAYER) < len(LAYER) / 6


def test_a_token_that_differs_is_passed() -> None:
    text = [*LAYER[:50], 7, *LAYER[51:]]
    drafter = Drafter(LAYER)
    assert write(drafter, text) < len(LAYER) / 5
    drafter = Drafter(LAYER)
    drafter.propose(LAYER[:50], 1)
    assert drafter.propose([*LAYER[:50], 7], 2) == LAYER[51:53], "taken for a wrong guess"
    strange = [*LAYER[:50], *range(BLIND + 1)]
    assert drafter.propose(strange, 2) == [], "not followed blindly for long"


def test_marks_and_lost_lines_are_passed() -> None:
    text = [1, 2, *LAYER[:40], 3, *LAYER[60:200], 1, 1, 2, *LAYER[200:]]
    assert write(Drafter(LAYER), text) < len(text) / 4


def test_of_several_places_the_nearest_is_meant() -> None:
    layer = [*LAYER[:40], 5, 6, 7, 8, 41, *LAYER[40:], 5, 6, 7, 8, 42]
    drafter = Drafter(layer)
    assert drafter.propose(layer[:44], 1) == [41]
    drafter.propose(layer[:-10], 1)
    assert drafter.propose(layer[:-1], 1) == [42]


def test_a_short_tail_counts_only_nearby() -> None:
    layer = [*LAYER[:NEAR], 8, 9, 41, *LAYER[NEAR:]]
    near, far = Drafter(layer), Drafter(layer)
    near.propose(layer[: NEAR - 5], 1)
    assert near.propose([*layer[: NEAR - 5], 1, 1, 1, 1, 1, 1, 8, 9], 1) == [41]
    assert far.propose([*range(1000, 1000 + 2 * NEAR + 10), 8, 9], 1) == []


def test_tables_are_guessed_from_themselves() -> None:
    row = list(range(10, 22))
    text = [token for number in range(30) for token in (*row, 100 + number)]
    assert write(Drafter([]), text) < len(text) / 2


def test_what_does_not_come_true_is_not_guessed_for_long() -> None:
    """The layer says other things: every second token is another one."""
    layer = list(range(100, 1300))
    drafter, text = Drafter(layer), [*layer[:4]]
    text += [token + 5000 * (place % 2) for place, token in enumerate(layer[4:])]
    assert write(drafter, text) <= len(text)
    assert drafter.drafted < len(text) / 4


def test_without_layer_and_repetition_nothing_is_guessed() -> None:
    drafter = Drafter([])
    assert write(drafter, LAYER) == len(LAYER)
    assert drafter.drafted == 0


ids = st.lists(st.integers(0, 6), max_size=80)


@given(ids, ids, st.integers(0, 9))
def test_any_text_ends(layer: list[int], text: list[int], begun: int) -> None:
    drafter = Drafter(layer)
    steps = write(drafter, text, begun=min(begun, len(text)))
    assert steps <= len(text)
    assert 0 <= drafter.accepted <= drafter.drafted
