"""A whole page, in every mode: same logits, same text, as the reference."""

import pytest
import torch

from docr.engine.model.decoder import attend
from docr.types import Grid
from tests.parity.oracle import IMAGE_ID, Pair, assert_same, pixels, random_views

CASES: dict[str, tuple[int, int | None, Grid]] = {
    "tiny": (512, None, (1, 1)),
    "small": (640, None, (1, 1)),
    "base": (1024, None, (1, 1)),
    "large": (1280, None, (1, 1)),
    "gundam, no tiles": (1024, 640, (1, 1)),
    "gundam 2x3": (1024, 640, (2, 3)),
    "gundam 3x2": (1024, 640, (3, 2)),
    "gundam 2x1": (1024, 640, (2, 1)),
}
NEW_TOKENS = 16


class GrowingCache:
    """Keys and values of one sequence, one pair a layer."""

    def __init__(self) -> None:
        self.kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def attend(self, layer, q, k, v):
        first = layer not in self.kept
        if not first:
            old_k, old_v = self.kept[layer]
            k, v = torch.cat((old_k, k), dim=2), torch.cat((old_v, v), dim=2)
        self.kept[layer] = k, v
        seen = None if first else torch.ones(1, 1, 1, k.shape[2], dtype=torch.bool)
        return attend(q, k, v, seen)


def generate(pair: Pair, x: torch.Tensor) -> tuple[list[int], torch.Tensor]:
    """Ours, greedily, through a cache; also the logits of the first step."""
    cache, ids, first = GrowingCache(), [], None
    positions = torch.arange(x.shape[1])[None]
    while len(ids) < NEW_TOKENS and (not ids or ids[-1] != pair.ours.config.eos_token_id):
        logits = pair.ours.logits(pair.ours(x, positions, cache)[:, -1])
        first = logits if first is None else first
        ids.append(int(logits.argmax()))
        positions, x = positions[:, -1:] + 1, pair.ours.embed(torch.tensor([ids[-1:]]))
    assert first is not None
    return ids, first


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_page(pair: Pair, case: str) -> None:
    base, tile, grid = CASES[case]
    tiles = grid[0] * grid[1] if grid != (1, 1) else 0
    view, local = random_views(1, base), random_views(tiles, tile or 64)
    features = pair.ours.encode_views(view)[0]
    tile_features = pair.ours.encode_views(local) if tiles else features[:0, None]
    vision = pair.ours.image_sequence(features, tile_features, grid)
    before, after = torch.tensor([0]), torch.tensor([12, 200, 45, 9, 301])
    x = torch.cat((pair.ours.embed(before), vision, pair.ours.embed(after)))[None]

    ids = torch.cat((before, torch.full((len(vision),), IMAGE_ID), after))[None]
    inputs = {"input_ids": ids, "pixel_values": pixels(view)}
    if tiles:
        inputs |= {
            "pixel_values_local": pixels(local),
            "num_local_patches": [tiles],
            "patches_grid": [list(grid)],
        }
    reference = pair.theirs(**inputs).logits
    assert_same("logits", pair.ours.logits(pair.ours(x, torch.arange(x.shape[1])[None])), reference)

    written, first = generate(pair, x)
    assert_same("logits of the first step", first, reference[:, -1])
    expected = pair.theirs.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    assert written == expected[0, ids.shape[1] :].tolist()
