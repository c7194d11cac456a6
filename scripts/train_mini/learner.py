"""docr's network with the loss of fine-tuning, and how a training of it is kept.

Shapes: B pages, L tokens of a sequence, D hidden size.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from docr.engine.detokenize import Detokenizer
from docr.engine.model.decoder import MoE
from docr.engine.model.deepseek_ocr import DeepseekOCR
from docr.errors import DocrError, UsageError
from docr.types import Grid, PageInputs
from scripts.train_mini.greedy import GrowingCache
from scripts.train_mini.score import character_distance

MAX_NORM = 1.0
NO_TARGET = -1
LENGTH_STEP = 64
"""Sequences are padded to a multiple of this: a CPU compiles bf16 kernels for each length."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """B pages, their sequences padded at the end.

    Attributes:
        views: u8 [B,3,S,S].
        tiles: u8 [N,3,T,T], of all pages one after the other.
        grids: of each page's tiles.
        ids: i64 [B,L]: prompt and answer.
        is_image: bool [B,L], placeholders of vision tokens.
        targets: i64 [B,L], the id after each; NO_TARGET where nothing is learnt.
    """

    views: Tensor
    tiles: Tensor
    grids: tuple[Grid, ...]
    ids: Tensor
    is_image: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same on a device."""
        views, tiles = self.views.to(device), self.tiles.to(device)
        rest = (each.to(device) for each in (self.ids, self.is_image, self.targets))
        return Batch(views, tiles, self.grids, *rest)


def collate(pages: Sequence[tuple[PageInputs, list[int]]]) -> Batch:
    """Put pages and their answers, the end of sequence included, together."""
    longest = max(len(inputs.input_ids) + len(answer) - 1 for inputs, answer in pages)
    shape = (len(pages), -(-longest // LENGTH_STEP) * LENGTH_STEP)
    ids, is_image = np.zeros(shape, np.int64), np.zeros(shape, np.bool_)
    targets = np.full(shape, NO_TARGET, np.int64)
    for row, (inputs, answer) in enumerate(pages):
        prompt, end = len(inputs.input_ids), len(inputs.input_ids) + len(answer) - 1
        ids[row, :prompt], ids[row, prompt:end] = inputs.input_ids, answer[:-1]
        is_image[row, :prompt] = inputs.image_mask
        targets[row, prompt - 1 : end] = answer
    return Batch(
        views=torch.from_numpy(np.stack([inputs.views.global_view for inputs, _ in pages])),
        tiles=torch.from_numpy(np.concatenate([inputs.views.tiles for inputs, _ in pages])),
        grids=tuple(inputs.views.grid for inputs, _ in pages),
        ids=torch.from_numpy(ids),
        is_image=torch.from_numpy(is_image),
        targets=torch.from_numpy(targets),
    )


class Learner(nn.Module):
    """A model with its loss."""

    def __init__(self, model: DeepseekOCR) -> None:
        super().__init__()
        self.model = model
        exact = torch.autocast(model.image_newline.device.type, enabled=False)
        for layer in model.decoder.layers:
            if isinstance(layer.mlp, MoE):
                # As in inference, in fp32: autocast would choose the experts in bf16.
                layer.mlp.route = exact(layer.mlp.route)  # type: ignore[method-assign]

    def embed(self, batch: Batch) -> Tensor:
        """Embeddings [B,L,D], the vision tokens in their places."""
        model = self.model
        views = model.encode_views(batch.views)
        tiles = model.encode_views(batch.tiles) if len(batch.tiles) else views[:0]
        counts = [columns * rows if columns * rows > 1 else 0 for columns, rows in batch.grids]
        pages = zip(views, torch.split(tiles, counts), batch.grids, strict=True)
        vision = torch.cat([model.image_sequence(*page) for page in pages])
        x = model.embed(batch.ids)
        x[batch.is_image] = vision.to(x.dtype)
        return x

    def forward(self, batch: Batch) -> Tensor:
        """Mean cross-entropy of a token of the answers."""
        x = self.embed(batch)
        hidden = self.model(x, torch.arange(x.shape[1], device=x.device)[None])
        asked = batch.targets != NO_TARGET
        return F.cross_entropy(self.model.logits(hidden[asked]), batch.targets[asked])

    def read(self, page: Batch, prompt: int, eos_id: int, most: int) -> list[int]:
        """Up to `most` ids read greedily from a batch of one page, without the end."""
        x = self.embed(page)[:, :prompt]
        cache, position = GrowingCache(), 0
        ids: list[int] = []
        while len(ids) < most:
            positions = torch.arange(position, position + x.shape[1], device=x.device)[None]
            hidden = self.model(x, positions, cache)
            position += x.shape[1]
            picked = self.model.logits(hidden[:, -1:]).argmax(-1)
            ids.append(int(picked))
            if ids[-1] == eos_id:
                return ids[:-1]
            x = self.model.embed(picked)
        return ids


@torch.inference_mode()
def check(learner: Learner, detokenizer: Detokenizer, pages: Iterable[Batch]) -> dict[str, float]:
    """Loss a token and character error rate on held-out pages, one page a batch."""
    loss, tokens, edits, characters = 0.0, 0, 0, 0
    for page in pages:
        asked = page.targets[0] != NO_TARGET
        prompt, answer = int(asked.nonzero()[0]) + 1, page.targets[0][asked].tolist()
        loss, tokens = loss + len(answer) * float(learner(page)), tokens + len(answer)
        read = learner.read(page, prompt, detokenizer.eos_id, int(1.2 * len(answer)) + 8)
        distance = character_distance(detokenizer.text(answer[:-1]), detokenizer.text(read))
        edits, characters = edits + distance.edits, characters + distance.length
    return {
        "held_out_loss": round(loss / tokens, 4),
        "held_out_cer": round(edits / max(1, characters), 4),
    }


def optimise(
    accelerator: Accelerator, learner: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch
) -> float:
    """Take one step; returns its loss.

    Raises:
        DocrError: the loss or its gradient is not a number.
    """
    loss = learner(batch)
    accelerator.backward(loss)
    norm = accelerator.clip_grad_norm_(learner.parameters(), MAX_NORM)
    if not torch.isfinite(loss + norm):
        raise DocrError("the loss is no longer a number; the last state is kept, lower --rate")
    optimizer.step()
    optimizer.zero_grad()
    value: float = loss.item()
    return value


@dataclass(slots=True)
class Progress:
    """How far training is, over all calls with one folder."""

    step: int = 0
    pages: int = 0
    seconds: float = 0.0


class State:
    """What a call leaves for the next one, if that has the same identity: a file."""

    def __init__(
        self,
        path: Path,
        learner: Learner,
        optimizer: torch.optim.Optimizer,
        identity: dict[str, Any],
    ) -> None:
        self._path, self._optimizer, self._identity = path, optimizer, identity
        named = learner.named_parameters()
        self._trained = {name: each.detach() for name, each in named if each.requires_grad}

    def load(self) -> Progress:
        """Take up what was left; where nothing was, start.

        Raises:
            UsageError: it was left by another training.
        """
        if not self._path.is_file():
            return Progress()
        left = torch.load(self._path, map_location="cpu", weights_only=True)
        for key, value in self._identity.items():
            if left["identity"][key] != value:
                raise UsageError(
                    f"{self._path}: begun with {key} {left['identity'][key]}, not {value}; go on "
                    "with that, or choose another folder"
                )
        for name, weights in self._trained.items():
            weights.copy_(left["trained"][name])
        self._optimizer.load_state_dict(left["optimizer"])
        return Progress(**left["progress"])

    def save(self, progress: Progress) -> None:
        """Write it all; a kill leaves the last one whole."""
        fresh = self._path.with_name(self._path.name + ".new")
        content = {"identity": self._identity, "trained": self._trained}
        content |= {"optimizer": self._optimizer.state_dict(), "progress": asdict(progress)}
        with fresh.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)
