"""DeepEncoder against the reference, part by part, at every size of view."""

from pathlib import Path

import pytest
import torch
from torch import nn

from docr.engine.model.decoder import RMSNorm
from docr.engine.model.deepencoder import LayerNorm2d
from docr.engine.model.load import load_model
from scripts.make_random_checkpoint import toy_config, write_checkpoint
from tests.parity.oracle import NEAR_EPSILON, Pair, assert_same, pixels, random_views

SIDES = (512, 640, 1024, 1280)  # grids of 32, 40, 64, 80 patches: none a multiple of the window


def record(modules, run):
    """The first output of each module during run(), in the order of `modules`."""
    outputs = {}
    hooks = [
        module.register_forward_hook(lambda _, __, out, i=i: outputs.setdefault(i, out))
        for i, module in enumerate(modules)
    ]
    result = run()
    for hook in hooks:
        hook.remove()
    return [outputs[i] for i in range(len(modules))], result


@pytest.mark.parametrize("side", SIDES)
@torch.inference_mode()
def test_every_part_of_the_encoder(pair: Pair, side: int) -> None:
    views = random_views(1, side)
    sam, clip = pair.ours.encoder.sam, pair.ours.encoder.clip
    tower = pair.theirs.model.vision_tower
    their_sam, their_clip = tower.sam_encoder, tower.vision_encoder
    parts = ["patches", *(f"SAM block {i}" for i in range(len(sam.blocks))), "neck", "compressor"]
    parts += [f"CLIP layer {i}" for i in range(len(clip.layers))]
    ours, tokens = record(
        [sam.patch_embed, *sam.blocks, sam.neck, sam.net_3, *clip.layers],
        lambda: pair.ours.encode_views(views),
    )
    theirs, features = record(
        [
            their_sam.patch_embed,
            *their_sam.layers,
            their_sam.neck,
            their_sam.proj,
            *their_clip.encoder.layers,
        ],
        lambda: tower(pixels(views)).last_hidden_state,
    )
    ours[0] = ours[0].permute(0, 2, 3, 1)
    for part, mine, reference in zip(parts, ours, theirs, strict=True):
        assert_same(f"{part} at {side}", mine, reference)
    assert_same(f"projector at {side}", tokens, pair.theirs.model.multi_modal_projector(features))


@torch.inference_mode()
def test_views_in_one_batch_are_independent(pair: Pair) -> None:
    views = random_views(3, 640)
    together = pair.ours.encode_views(views)
    alone = torch.cat([pair.ours.encode_views(view[None]) for view in views])
    assert_same("batch of views", together, alone)


@torch.inference_mode()
def test_small_activations_come_near_every_epsilon(tmp_path: Path) -> None:
    """Else the second checkpoint would not notice a wrong epsilon."""
    write_checkpoint(tmp_path, toy_config(), dtype="fp32", stream_scale=NEAR_EPSILON)
    model = load_model(tmp_path, device="cpu", dtype=torch.float32)
    norms = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (nn.LayerNorm, RMSNorm))
    }
    variance_in_epsilons: dict[str, float] = {}

    def measure(name: str):
        dim = 1 if isinstance(norms[name], LayerNorm2d) else -1

        def hook(module, inputs):
            variance = inputs[0].square().mean(dim).median()
            variance_in_epsilons[name] = float(variance) / module.eps

        return hook

    for name, module in norms.items():
        module.register_forward_pre_hook(measure(name))
    tokens = model.encode_views(random_views(1, 512))
    model(tokens, torch.arange(tokens.shape[1])[None])
    assert variance_in_epsilons.keys() == norms.keys()
    assert max(variance_in_epsilons.values()) < 10, variance_in_epsilons
