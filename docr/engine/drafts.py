"""Guesses at what a page's next tokens are, for the model to check many at once. No tensors.

Two sources: the page's own text layer, where the document has one, and what has been written so
far, as tables repeat themselves. A guess is the stretch that follows the place in a source where
the last tokens written stand. The model decides about every token of it exactly as it would have
without, so that guesses change how long a page takes and never its text.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence

MAX_DRAFT = 8
"""Tokens guessed at once, at most."""

TAILS = (4, 3, 2)
"""How many of the last tokens written must stand in a source for it to be followed, best first.
In the text written so far chance finds a match for less than the first of them."""

NEAR = 64
"""Tokens from where the layer was left within which a tail shorter than the best one counts."""

BLIND = 4
"""Tokens that do not match after which the layer is still followed from where it was left: one of
them that differs is the commonest case."""

BREAK_EVEN = 0.35
"""Share of guessed tokens that must come true for guessing to save time.

What a token more costs, as a share of a step with one token of each page: 0.26 to 0.42 for the
short guesses that remain when few come true, with up to 8 pages, measured at full size on CPUs
(scripts/draft_cost.py). With more pages it was less, 0.10 to 0.20, on the one CPU measured.
"""

MEMORY = 0.9
"""How much of its weight a guess keeps, in the acceptance, with every later one."""

PAUSE = 32
"""Steps without guessing after the acceptance has fallen below BREAK_EVEN."""


class Drafter:
    """Guesses for one page.

    Attributes:
        drafted, accepted: tokens guessed, and those of them that came true.
        layer: ids of the page's text layer.
        place: in the layer: what follows the last token that was found there.
        written: tokens when it was found.

    Args:
        layer: may be empty.
    """

    def __init__(self, layer: list[int]) -> None:
        self.drafted = self.accepted = 0
        self.layer = layer
        self.place = self.written = 0
        self._layer: _Runs | None = None
        self._own = _Runs()
        self._acceptance = 1.0
        self._length = 2
        self._pause = 0

    def propose(self, written: Sequence[int], most: int) -> list[int]:
        """Up to `most` ids that may follow those written; often none."""
        if self._pause > 0:
            return []
        if self._layer is None:  # not before it is needed: a device may look for itself
            self._layer = _Runs(self.layer)
        most = min(most, self._length)
        self._own.extend(written[len(self._own.ids) :])
        return self._from_layer(self._layer, written, most) or self._from_own(written, most)

    def count(self, drafted: int, accepted: int) -> None:
        """Add to the counts."""
        self.drafted += drafted
        self.accepted += accepted

    def learn(self, drafted: int, accepted: int) -> None:
        """Take note of how many of the tokens proposed last came true."""
        if drafted == 0:
            self._pause = max(0, self._pause - 1)
            return
        self.count(drafted, accepted)
        self._acceptance = MEMORY * self._acceptance + (1 - MEMORY) * accepted / drafted
        # Long guesses where they come true; where not, short ones that cost little.
        self._length = min(2 * self._length, MAX_DRAFT) if accepted == drafted else accepted + 1
        if self._acceptance < BREAK_EVEN:
            self._pause, self._acceptance = PAUSE, 1.0

    def _from_layer(self, layer: "_Runs", written: Sequence[int], most: int) -> list[int]:
        expected = self.place + len(written) - self.written
        for length in TAILS:
            place = layer.nearest(written[-length:], expected)
            if place is not None and (length == TAILS[0] or abs(place - expected) <= NEAR):
                self.place, self.written = place, len(written)
                return layer.ids[place : place + most]
        if len(written) - self.written > BLIND:
            return []
        return layer.ids[expected : expected + most]

    def _from_own(self, written: Sequence[int], most: int) -> list[int]:
        place = self._own.nearest(written[-TAILS[0] :], len(written) - 1)
        return [] if place is None else self._own.ids[place : place + most]


class _Runs:
    """Ids, and where in them each short run of ids ends."""

    def __init__(self, ids: Iterable[int] = ()) -> None:
        self.ids: list[int] = []
        self._ends: dict[tuple[int, ...], list[int]] = {}
        self.extend(ids)

    def extend(self, ids: Iterable[int]) -> None:
        """Add ids at the end."""
        for token in ids:
            self.ids.append(token)
            for length in TAILS:
                if len(self.ids) >= length:
                    self._ends.setdefault(tuple(self.ids[-length:]), []).append(len(self.ids))

    def nearest(self, run: Sequence[int], place: int) -> int | None:
        """The end of this run that is nearest to a place and has something behind it."""
        ends = self._ends.get(tuple(run), [])
        at = bisect_left(ends, place)
        near = [end for end in ends[max(0, at - 1) : at + 1] if end < len(self.ids)]
        return min(near, key=lambda end: abs(end - place), default=None)
