"""The reference implementation, holding the same weights as ours.

transformers has no class for DeepSeek-OCR. Its UnlimitedOcr is the same network when every decoder
layer has full attention, and it reads the official checkpoint layout.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import UnlimitedOcrForConditionalGeneration

from docr.bench.peers import reference_config
from docr.engine.model.deepseek_ocr import DeepseekOCR
from docr.engine.model.load import load_model
from scripts.make_random_checkpoint import toy_config, write_checkpoint

IMAGE_ID = 290  # of the placeholder; any id of the vocabulary serves
TOLERANCE = 2e-4
NEAR_EPSILON = 1e-3  # stream_scale at which the variances that norms see come near their epsilons


@dataclass(frozen=True, slots=True)
class Pair:
    ours: DeepseekOCR
    theirs: Any


def make_pair(folder: Path, *, seed: int, stream_scale: float) -> Pair:
    """One random checkpoint, read by both."""
    config = toy_config()
    write_checkpoint(folder, config, seed=seed, dtype="fp32", stream_scale=stream_scale)
    theirs, info = UnlimitedOcrForConditionalGeneration.from_pretrained(
        folder,
        config=reference_config(config, IMAGE_ID),
        dtype=torch.float32,
        attn_implementation="eager",
        output_loading_info=True,
    )
    assert not any(info.values()), info
    theirs.generation_config.pad_token_id = config["eos_token_id"]
    ours = load_model(folder, device="cpu", dtype=torch.float32)
    return Pair(ours, theirs.eval().requires_grad_(False))


def assert_same(part: str, ours: Tensor, theirs: Tensor) -> None:
    """Largest difference over the reference's root mean square."""
    assert ours.shape == theirs.shape, (part, ours.shape, theirs.shape)
    error = float((ours - theirs).abs().max() / theirs.square().mean().sqrt())
    assert error <= TOLERANCE, f"{part}: {error:.1e}"


def random_views(count: int, side: int) -> Tensor:
    """u8 [count,3,side,side]: smooth colours under noise, so that neighbours are alike."""
    generator = torch.Generator().manual_seed(side + count)
    coarse = torch.rand(count, 3, 9, 9, generator=generator) * 200
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    noise = torch.rand(count, 3, side, side, generator=generator) * 55
    return (smooth + noise).to(torch.uint8)


def pixels(views: Tensor) -> Tensor:
    """What the reference takes instead of u8."""
    return (views.float() / 255 - 0.5) / 0.5
