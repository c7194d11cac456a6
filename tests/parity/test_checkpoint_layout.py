"""The released checkpoint's tensors: names, shapes and bytes, without any weights."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from docr.engine.model.config import ModelConfig
from scripts.make_random_checkpoint import full_config, tensor_shapes

HUB = Path(__file__).parents[2] / "../shared/hub"
PATCH_EMBEDDING = "model.vision_model.embeddings.patch_embedding.weight"
needs_hub = pytest.mark.skipif(not HUB.is_dir(), reason=f"no {HUB.name} files beside the checkout")


def linear(name: str, out: int, into: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (out, into)
    yield f"{name}.bias", (out,)


def norm(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def released_tensors() -> Iterator[tuple[str, tuple[int, ...]]]:
    """As the released safetensors file holds them."""
    d = 1280
    yield "model.embed_tokens.weight", (129280, d)
    yield "lm_head.weight", (129280, d)
    yield "model.norm.weight", (d,)
    for i in range(12):
        layer = f"model.layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield f"{layer}.self_attn.{name}.weight", (d, d)
        yield f"{layer}.input_layernorm.weight", (d,)
        yield f"{layer}.post_attention_layernorm.weight", (d,)
        mlps = {f"{layer}.mlp": 6848}
        if i > 0:
            yield f"{layer}.mlp.gate.weight", (64, d)
            mlps = {f"{layer}.mlp.experts.{expert}": 896 for expert in range(64)}
            mlps[f"{layer}.mlp.shared_experts"] = 1792
        for mlp, width in mlps.items():
            yield f"{mlp}.gate_proj.weight", (width, d)
            yield f"{mlp}.up_proj.weight", (width, d)
            yield f"{mlp}.down_proj.weight", (d, width)
    yield "model.image_newline", (d,)
    yield "model.view_seperator", (d,)
    yield from linear("model.projector.layers", d, 2048)

    sam = "model.sam_model"
    yield f"{sam}.pos_embed", (1, 64, 64, 768)
    yield f"{sam}.patch_embed.proj.weight", (768, 3, 16, 16)
    yield f"{sam}.patch_embed.proj.bias", (768,)
    for i in range(12):
        block = f"{sam}.blocks.{i}"
        yield from norm(f"{block}.norm1", 768)
        yield from norm(f"{block}.norm2", 768)
        yield from linear(f"{block}.attn.qkv", 2304, 768)
        yield from linear(f"{block}.attn.proj", 768, 768)
        rows = 127 if i in (2, 5, 8, 11) else 27
        yield f"{block}.attn.rel_pos_h", (rows, 64)
        yield f"{block}.attn.rel_pos_w", (rows, 64)
        yield from linear(f"{block}.mlp.lin1", 3072, 768)
        yield from linear(f"{block}.mlp.lin2", 768, 3072)
    yield f"{sam}.neck.0.weight", (256, 768, 1, 1)
    yield from norm(f"{sam}.neck.1", 256)
    yield f"{sam}.neck.2.weight", (256, 256, 3, 3)
    yield from norm(f"{sam}.neck.3", 256)
    yield f"{sam}.net_2.weight", (512, 256, 3, 3)
    yield f"{sam}.net_3.weight", (1024, 512, 3, 3)

    clip = "model.vision_model"
    yield f"{clip}.embeddings.class_embedding", (1024,)
    yield f"{clip}.embeddings.position_embedding.weight", (257, 1024)
    yield PATCH_EMBEDDING, (1024, 3, 14, 14)
    yield from norm(f"{clip}.pre_layrnorm", 1024)
    for i in range(24):
        layer = f"{clip}.transformer.layers.{i}"
        yield from norm(f"{layer}.layer_norm1", 1024)
        yield from norm(f"{layer}.layer_norm2", 1024)
        yield from linear(f"{layer}.self_attn.qkv_proj", 3072, 1024)
        yield from linear(f"{layer}.self_attn.out_proj", 1024, 1024)
        yield from linear(f"{layer}.mlp.fc1", 4096, 1024)
        yield from linear(f"{layer}.mlp.fc2", 1024, 4096)


def product(shape: tuple[int, ...]) -> int:
    count = 1
    for n in shape:
        count *= n
    return count


def test_every_tensor_of_the_released_checkpoint_is_asked_for() -> None:
    released = dict(released_tensors())
    assert len(released) == 2710
    assert 2 * sum(product(shape) for shape in released.values()) == 6_672_212_480
    assert tensor_shapes(full_config()) == released


@needs_hub
def test_names_and_bytes_agree_with_the_published_index() -> None:
    index = json.loads((HUB / "model.safetensors.index.json").read_text(encoding="utf-8"))
    shapes = tensor_shapes(full_config())
    assert shapes.keys() == index["weight_map"].keys()
    assert 2 * sum(map(product, shapes.values())) == index["metadata"]["total_size"]


@needs_hub
def test_published_config_is_the_full_preset() -> None:
    published = ModelConfig.from_file(HUB / "config.json")
    assert published == ModelConfig.from_dict(full_config())
