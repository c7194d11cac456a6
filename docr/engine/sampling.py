"""From logits to the next token: what may not be said, and the likeliest of the rest."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from docr.engine.native import products
from docr.engine.native.library import library


@dataclass(frozen=True, slots=True)
class NgramRule:
    """No n-gram twice within a window of the generated tokens.

    Source: the logits processor of the official vLLM scripts (not the transformers form, which
    also looks at the prompt and lets nothing pass).

    Attributes:
        n: length of the n-grams; 0 or 1: nothing is banned.
        window: how many of the last tokens are looked at.
        exempt: ids that are never banned: table cells, which repeat by nature.
    """

    n: int
    window: int
    exempt: frozenset[int] = frozenset()

    def banned(self, ids: list[int]) -> set[int]:
        """The ids that would complete an n-gram that lies in the window of `ids` already."""
        banned: set[int] = set()
        if self.n < 2 or len(ids) < self.n:
            return banned
        prefix = ids[1 - self.n :]
        last, stop = prefix[-1], len(ids) - 1
        # Where the prefix may have ended before; list.index finds its last token at C speed.
        place = max(0, len(ids) - self.window) + self.n - 2
        while place < stop:
            try:
                place = ids.index(last, place, stop) + 1
            except ValueError:
                break
            if ids[place - self.n + 1 : place] == prefix:
                banned.add(ids[place])
        return banned - self.exempt


def ban_repeats(logits: Tensor, texts: Tensor, rule: NgramRule, exempt: Tensor) -> None:
    """Apply an NgramRule to many texts at once, in fixed shapes and without the host.

    Args:
        logits: [rows,V]; banned ids become -inf.
        texts: i64 [rows,W], the ends of the texts at the right, -1 before their beginning; at
            least as long as the rule's window.
        rule: what is banned.
        exempt: i64, the rule's exempt ids.
    """
    width = min(rule.window, texts.shape[1])
    if rule.n < 2 or rule.n > width:
        return
    grams = texts[:, -width:].unfold(1, rule.n, 1)  # rows, width-n+1, n
    ends = grams[:, :, -1]
    prefix = texts[:, None, -(rule.n - 1) :]
    repeated = (grams[:, :, :-1] == prefix).all(-1) & (prefix >= 0).all(-1)
    repeated &= ~torch.isin(ends, exempt)
    worst = torch.where(repeated, -torch.inf, torch.inf).to(logits.dtype)
    logits.scatter_reduce_(1, ends.clamp(min=0), worst, "amin")


@dataclass(frozen=True, slots=True)
class Picks:
    """A token and its log-probability for each row of a batch."""

    token_ids: list[int]
    logprobs: list[float]

    def split(self, counts: Iterable[int]) -> Iterator["Picks"]:
        """The same in parts of so many rows."""
        end = 0
        for count in counts:
            start, end = end, end + count
            yield Picks(self.token_ids[start:end], self.logprobs[start:end])


def pick(logits: Tensor, *, undecodable: Tensor, banned: Iterable[Collection[int]]) -> Picks:
    """Choose the likeliest allowed token of each row.

    The log-probability is the model's own: over all tokens that can be decoded, before the n-gram
    rule takes some away. Where the rule forced another choice, it is low, as it should be.

    Args:
        logits: fp32 [B,vocabulary]; overwritten.
        undecodable: bool [vocabulary]; True for rows without a token.
        banned: ids that must not be chosen, for each of the B rows.
    """
    if logits.is_cpu and library() is not None:
        return Picks(*products.pick(logits, undecodable, list(banned)))
    logits.masked_fill_(undecodable, -torch.inf)
    total = logits.logsumexp(-1)
    pairs = [(row, token) for row, tokens in enumerate(banned) for token in tokens]
    if pairs:
        rows, tokens = torch.tensor(pairs, device=logits.device).T
        logits[rows, tokens] = -torch.inf
    best = logits.max(-1)
    return Picks(best.indices.tolist(), (best.values - total).tolist())
