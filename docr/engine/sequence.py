"""A page on its way through the engine."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from docr.engine.drafts import Drafter
from docr.types import U8, PageRef, PageViews


@dataclass(slots=True, eq=False)
class Sequence:
    """One page: its prompt and what has been generated so far. Compared by identity.

    Attributes:
        input_ids, image_mask: as in PageInputs.
        views: the pixels; None once they are encoded, which is the last time they are needed.
        max_new_tokens: where generation ends at the latest.
        arrival: place in the order of arrival; the youngest page is the first to be put back.
        token_ids: generated so far. Between steps of a running page all but the last of them are
            in the KV cache.
        logprob_sum, logprob_min: over the generated tokens, natural logarithms.
        drafter: guesses what comes next; None: nobody does.
        draft: its guess, which the next decoding step checks.
        seconds: time spent, by stage; its share of each batch it was in.
    """

    ref: PageRef
    input_ids: NDArray[np.int64]
    image_mask: NDArray[np.bool_]
    views: PageViews | None
    max_new_tokens: int
    arrival: int
    token_ids: list[int] = field(default_factory=list)
    logprob_sum: float = 0.0
    logprob_min: float = 0.0
    drafter: Drafter | None = None
    draft: list[int] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Tokens of prompt and text so far."""
        return len(self.input_ids) + len(self.token_ids)

    @property
    def max_length(self) -> int:
        """Tokens of prompt and text at the very most."""
        return len(self.input_ids) + self.max_new_tokens

    def append(self, token_id: int, logprob: float) -> None:
        """Take the next token and its log-probability."""
        self.token_ids.append(token_id)
        self.logprob_sum += logprob
        self.logprob_min = min(self.logprob_min, logprob)

    def guess(self) -> None:
        """Set the draft for the next decoding step."""
        room = self.max_new_tokens - len(self.token_ids) - 1
        if self.drafter is not None:
            self.draft = self.drafter.propose(self.token_ids, room)

    def spend(self, stage: str, seconds: float) -> None:
        """Count time towards a stage: "vision", "prefill" or "decode"."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One view of a page, to be encoded.

    Attributes:
        place: 0 for the global view, from 1 on for the tiles.
        pixels: u8 [3,S,S].
    """

    page: Sequence
    place: int
    pixels: U8

    @property
    def area_px(self) -> int:
        """Pixels in the view: what it costs to encode."""
        _, height, width = self.pixels.shape
        return int(height * width)


def views_of(page: Sequence) -> list[View]:
    """A page's views; none where they are encoded."""
    if page.views is None:
        return []
    pixels = (page.views.global_view, *page.views.tiles)
    return [View(page, place, view) for place, view in enumerate(pixels)]
