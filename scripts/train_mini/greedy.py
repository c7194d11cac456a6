"""Free-running greedy reading of training batches: the error that counts, while training goes on.

The shipped figures come from `docr convert` itself (evaluate); this is the same in small.
"""

from collections.abc import Iterable

import torch
from rapidfuzz.distance import Levenshtein
from torch import Tensor

from docr.engine.model.decoder import attend
from scripts.train_mini.stream import Batch
from scripts.train_mini.tokenizer import EOS_ID, build_tokenizer
from scripts.train_mini.trainee import Trainee


class GrowingCache:
    """Keys and values of all earlier calls, the same length for all pages."""

    def __init__(self) -> None:
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See docr.engine.model.decoder.KVCache."""
        if layer not in self.layers:
            self.layers[layer] = (k, v)
            return attend(q, k, v, None)
        earlier_k, earlier_v = self.layers[layer]
        k, v = torch.cat((earlier_k, k), dim=2), torch.cat((earlier_v, v), dim=2)
        self.layers[layer] = (k, v)
        mask = torch.ones(k.shape[0], 1, 1, k.shape[2], dtype=torch.bool, device=k.device)
        return attend(q, k, v, mask)


@torch.inference_mode()
def read_greedily(trainee: Trainee, batch: Batch, most: int) -> Tensor:
    """Token ids [B,most] read from a batch's pages, or from its ideal tokens without pixels."""
    model = trainee.model
    tokens = trainee.see(batch, {}) if batch.pixels.numel() else trainee.ideal(batch)
    empty = batch.text[:, :0]
    x, _ = trainee.sequence(tokens, batch.prompt, empty)
    cache, position = GrowingCache(), 0
    ids: list[Tensor] = []
    done = torch.zeros(len(batch.text), dtype=torch.bool, device=x.device)
    while len(ids) < most and not done.all():
        positions = torch.arange(position, position + x.shape[1], device=x.device)[None]
        hidden = model(x, positions, cache)
        position += x.shape[1]
        picked = model.logits(hidden[:, -1]).argmax(-1)
        done |= picked == EOS_ID
        ids.append(picked)
        x = model.embed(picked)[:, None]
    return torch.stack(ids, dim=1)


def error_rate(trainee: Trainee, held_out: Iterable[Batch]) -> float:
    """Edits over characters, white space collapsed."""
    tokenizer = build_tokenizer()
    device = trainee.model.image_newline.device
    edits = characters = 0
    for batch in held_out:
        batch = batch.to(device)
        read = read_greedily(trainee, batch, int(batch.text.shape[1] * 1.2) + 8)
        for page, truth in zip(read.tolist(), batch.text.tolist(), strict=True):
            wanted = _text(tokenizer.decode(_until_end(truth), skip_special_tokens=False))
            got = _text(tokenizer.decode(_until_end(page), skip_special_tokens=False))
            edits += Levenshtein.distance(wanted, got)
            characters += len(wanted)
    return edits / max(1, characters)


def _until_end(ids: list[int]) -> list[int]:
    return ids[: ids.index(EOS_ID)] if EOS_ID in ids else ids


def _text(text: str) -> str:
    return " ".join(text.split())
