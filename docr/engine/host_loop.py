"""Decoding a step at a time, the host deciding in between: on CPUs, and where there is no graph."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from docr.engine.cache import KVCache, Prefilling
from docr.engine.drafts import MAX_DRAFT
from docr.engine.model.deepseek_ocr import DeepseekOCR
from docr.engine.sampling import Picks
from docr.engine.sequence import Sequence


class HostLoop:
    """Takes all running pages a step further; implements runner.Loop.

    Args:
        model, cache: what computes, and where it keeps keys and values.
        pick: a token after each of some texts, from the hidden states [rows,D] at their ends; there
            may be more of these behind them.
    """

    steps = 1
    ahead = 1 + MAX_DRAFT

    def __init__(
        self,
        model: DeepseekOCR,
        cache: KVCache,
        pick: Callable[[list[list[int]], Tensor], Picks],
    ) -> None:
        self._model, self._cache, self._pick = model, cache, pick

    def arrange(self, running: list[Sequence], row_length: int) -> None:
        """Give page i of `running` row i of the cache, each row of this many tokens."""
        self._cache.arrange(running, row_length)

    def prefilling(self, pages: list[Sequence]) -> Prefilling:
        """The cache as a prefill of these pages sees it."""
        return self._cache.prefilling(pages)

    def decode(self, pages: list[Sequence]) -> list[Picks]:
        """What follows each page's last token, as far as its draft is right."""
        for page in pages:
            page.guess()
        cache = self._cache.decoding(pages)
        tokens: list[int] = []
        texts = []
        for page in pages:
            tokens += page.token_ids[-1], *page.draft
            texts.append(page.token_ids)  # not a copy: most pages have no draft
            texts += [[*page.token_ids, *page.draft[: n + 1]] for n in range(len(page.draft))]
        ids = np.full(cache.positions.shape, tokens[-1], np.int64)
        ids[0, : len(tokens)] = tokens
        x = self._model.embed(torch.from_numpy(ids).to(cache.positions.device))
        picks = self._pick(texts, self._model(x, cache.positions, cache)[0])
        counts = [1 + len(page.draft) for page in pages]
        pairs = zip(pages, picks.split(counts), strict=True)
        return [_checked(page, found) for page, found in pairs]


def _checked(page: Sequence, picks: Picks) -> Picks:
    """Of what was picked after a page and each token of its draft, what stands."""
    draft, page.draft = page.draft, []
    pairs = zip(draft, picks.token_ids, strict=False)
    accepted = next((n for n, (guess, token) in enumerate(pairs) if guess != token), len(draft))
    if page.drafter is not None:
        page.drafter.learn(len(draft), accepted)
    return Picks(picks.token_ids[: accepted + 1], picks.logprobs[: accepted + 1])
