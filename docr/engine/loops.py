"""When a page repeats itself, and where its repetition begins.

The n-gram rule cannot prevent this: it looks back 90 tokens and lets table cells pass. What gets
through are cycles longer than its window, passages that come again and again with something else
in between, and rows of empty cells.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

PASSAGE = 64
"""Tokens that must come again, in one piece, before anything is called a repetition."""

COPIES = 4
"""How often a passage must be there in all. Forms and labels say the same thing twice or thrice."""

TABLE_REPEATED = 1024
"""Repeated tokens it takes within a table: sparse tables have hundreds of equal cells in a row."""

TABLE_SHARE = 0.25
"""A passage is part of a table if at least this share of it opens or closes cells and rows: a cell
with three tokens of text has a share of 2/5, prose has none."""


def find_loop(ids: Sequence[int], *, table_ids: frozenset[int] = frozenset()) -> int | None:
    """Tell whether the text has come to repeat itself, looking back from its end.

    It has if its last 64 tokens have been there before, and either the same cycle has gone on
    without a break for 64 repeated tokens and for four copies, or the passage has occurred four
    times without overlap, whatever stood in between. In tables it takes 1024 repeated tokens.

    Args:
        ids: all generated tokens.
        table_ids: the tokens that open and close cells and rows.

    Returns:
        How many tokens to keep: up to the end of the first copy. None: no repetition.
    """
    if len(ids) <= PASSAGE:
        return None
    tokens = np.asarray(ids, dtype=np.int64)
    ends = _earlier_ends(tokens)
    if not len(ends):
        return None
    share = np.isin(tokens[-PASSAGE:], list(table_ids)).mean() if table_ids else 0.0
    needed = TABLE_REPEATED if share >= TABLE_SHARE else PASSAGE

    period = len(tokens) - int(ends[-1])
    repeated = _cycle_length(tokens, period)
    if repeated >= max(needed, (COPIES - 1) * period):
        return len(tokens) - repeated

    apart = _apart([*ends.tolist(), len(tokens)])
    if (len(apart) - 1) * PASSAGE >= max(needed, (COPIES - 1) * PASSAGE):
        return _start_of_copy(tokens, apart[0] - PASSAGE, apart[1] - PASSAGE)
    return None


def _earlier_ends(tokens: NDArray[np.int64]) -> NDArray[np.intp]:
    """Where earlier occurrences of the last 64 tokens end (exclusive), ascending."""
    ends = np.flatnonzero(tokens[PASSAGE - 1 : -1] == tokens[-1]) + PASSAGE
    for back in range(2, PASSAGE + 1):
        if not len(ends):  # after two or three rounds, for text that does not repeat
            break
        ends = ends[tokens[ends - back] == tokens[-back]]
    return ends


def _cycle_length(tokens: NDArray[np.int64], period: int) -> int:
    """How many tokens at the end equal the one `period` before them, without a break."""
    breaks = np.flatnonzero(tokens[period:] != tokens[:-period])
    return len(tokens) - period - (int(breaks[-1]) + 1 if len(breaks) else 0)


def _apart(ends: list[int]) -> list[int]:
    """Ends of passages that do not overlap: the last, and as many before it as fit; ascending."""
    apart = [ends[-1]]
    for end in reversed(ends):
        if apart[-1] - end >= PASSAGE:
            apart.append(end)
    return apart[::-1]


def _start_of_copy(tokens: NDArray[np.int64], first: int, second: int) -> int:
    """Where the second of two equal passages begins, with all that agrees before them."""
    while first > 0 and tokens[first - 1] == tokens[second - 1]:
        first, second = first - 1, second - 1
    return second
