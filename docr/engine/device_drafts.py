"""Guesses at the next tokens as tensor code of fixed shapes; drafts.py says what they are for.

Shapes: B rows, k drafted tokens, W tokens looked back at, L tokens of a text layer; -1: no token.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from docr.engine.drafts import BLIND, NEAR, TAILS


def propose(layer: Tensor, recent: Tensor, place: Tensor, blind: Tensor, count: int) -> Tensor:
    """What may follow the last tokens: the stretch behind where they stand in the layer or text.

    Args:
        layer: i64 [B,L], its last column -1.
        recent: i64 [B,W], the text's end.
        place: i64 [B], where in the layer it is expected to go on.
        blind: i64 [B], tokens written since it was found there.
        count: k.

    Returns:
        i64 [B,k], -1 where there is no guess.
    """
    source = torch.cat((layer, recent), dim=1)
    found, begin = _find(layer, recent, place, blind)
    at = begin[:, None] + torch.arange(count, device=layer.device)
    draft = source.gather(1, at.clamp(max=source.shape[1] - 1))
    # Behind a -1 another source begins.
    real = ((draft >= 0) & (at < source.shape[1])).long().cumprod(1).bool()
    return draft.masked_fill(~(real & found[:, None]), -1)


def follow(
    layer: Tensor, recent: Tensor, place: Tensor, blind: Tensor, count: Tensor
) -> tuple[Tensor, Tensor]:
    """Place and blind after `count` [B] more tokens, where `recent` is the text before them."""
    found, begin = _in_layer(layer, recent, place)
    return torch.where(found, begin, place) + count, torch.where(found, 0, blind) + count


def _find(layer: Tensor, recent: Tensor, place: Tensor, blind: Tensor) -> tuple[Tensor, Tensor]:
    """Whether there is a guess [B], and where in layer and text together it begins [B]."""
    in_layer, begin = _in_layer(layer, recent, place)
    in_text, own = _in_text(recent)
    left = place.clamp(max=layer.shape[1] - 1)
    near = (blind <= BLIND) & (layer.gather(1, left[:, None])[:, 0] >= 0)
    # A match in the layer, else the place in it that was left not long ago, else the text's own.
    begin = torch.where(in_layer, begin, torch.where(near, left, layer.shape[1] + own))
    return in_layer | near | in_text, begin


def _in_layer(layer: Tensor, recent: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """Whether the last tokens stand in the layer [B], and what follows the best place [B]."""
    lengths = _matches(layer, recent)[:, :-1]
    after = torch.arange(1, layer.shape[1], device=layer.device)
    distance = (after - place[:, None]).abs()
    usable = (lengths == TAILS[0]) | ((lengths >= TAILS[-1]) & (distance <= NEAR))
    usable &= layer[:, 1:] >= 0
    # Longer matches first, then nearer ones.
    rank = torch.where(usable, lengths * 2 * layer.shape[1] - distance, -(layer.shape[1] ** 2))
    return usable.any(1), rank.argmax(1) + 1


def _in_text(recent: Tensor) -> tuple[Tensor, Tensor]:
    """Whether the last tokens stand earlier in the text [B], and what follows there last [B]."""
    usable = _matches(recent, recent)[:, :-1] == TAILS[0]  # not the end itself
    after = torch.arange(1, recent.shape[1], device=recent.device)
    return usable.any(1), torch.where(usable, after, 0).amax(1)


def _matches(source: Tensor, recent: Tensor) -> Tensor:
    """i64 [B,n]: how many of the last tokens end at each place of a source [B,n], at most TAILS."""
    count = torch.zeros_like(source)
    same = torch.ones_like(source, dtype=torch.bool)
    for back in range(TAILS[0]):
        token = recent[:, recent.shape[1] - 1 - back, None]
        shifted = F.pad(source, (back, 0), value=-1)[:, : source.shape[1]]
        same = same & (shifted == token) & (token >= 0)
        count = count + same
    return count
