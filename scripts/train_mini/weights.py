"""Weights between legs: safetensors files small enough to travel, replaced in one step."""

import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from docr.engine.model.load import load_model
from scripts.train_mini.trainee import Trainee

PART_BYTES = 14 << 20
STATE = "state.json"


@dataclass(slots=True)
class State:
    """How far training is.

    Attributes:
        stage: which weights have been trained.
        samples: pages seen in this stage.
    """

    stage: str
    samples: int = 0


def save_leg(trainee: Trainee, folder: Path, state: State) -> None:
    """Write all weights in bf16, in parts, so that a kill leaves the old ones or the new ones."""
    fresh = folder / "new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for number, part in enumerate(split(trainee.state_dict())):
        save_file(part, fresh / f"part-{number}.safetensors")
    (fresh / STATE).write_text(json.dumps(asdict(state)) + "\n", encoding="utf-8")
    weights, old = folder / "weights", folder / "old"
    shutil.rmtree(old, ignore_errors=True)
    if weights.exists():
        weights.replace(old)
    fresh.replace(weights)
    shutil.rmtree(old, ignore_errors=True)


def split(tensors: dict[str, Tensor]) -> Iterable[dict[str, Tensor]]:
    """Parts of at most PART_BYTES in bf16, in the order of the tensors."""
    part: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors.items():
        half = tensor.detach().to("cpu", torch.bfloat16).contiguous()
        if part and size + half.nbytes > PART_BYTES:
            yield part
            part, size = {}, 0
        part[name] = half
        size += half.nbytes
    if part:
        yield part


def load_leg(trainee: Trainee, folder: Path) -> State | None:
    """Load what a leg left: of the decoder's and the encoder's stage the half that it trained.

    Returns:
        What save_leg was given; None where there is nothing yet.
    """
    # A kill between the two renames of save_leg leaves the last weights as "old".
    found = next((p for p in (folder / "weights", folder / "old") if p.is_dir()), None)
    if found is None:
        return None
    tensors: dict[str, Tensor] = {}
    for path in sorted(found.glob("*.safetensors")):
        tensors.update(load_file(path))
    state = State(**json.loads((found / STATE).read_text(encoding="utf-8")))
    kept = {name: tensor for name, tensor in tensors.items() if _belongs(name, state.stage)}
    trainee.load_state_dict(kept, strict=False)
    return state


def load_checkpoint(trainee: Trainee, folder: Path) -> bool:
    """Load an exported checkpoint, which has no heads; False where the folder holds none."""
    if not (folder / "config.json").is_file():
        return False
    model = load_model(folder, device="cpu", dtype=torch.float32)
    trainee.model.load_state_dict(model.state_dict())
    return True


def _belongs(name: str, stage: str) -> bool:
    """Whether a stage trains a tensor."""
    sees = name.startswith(("model.encoder.", "patch_head", "slot_head", "count_head"))
    return stage in ("joined", "whole") or sees == (stage == "encoder")
