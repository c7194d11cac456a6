import json
from pathlib import Path
from typing import Any

import pytest

from docr.engine.model.config import ClipConfig, ModelConfig, SamConfig
from docr.errors import CheckpointError
from scripts.make_random_checkpoint import full_config, toy_config


def test_released_dimensions_are_the_defaults() -> None:
    assert ModelConfig.from_dict(full_config()) == ModelConfig(sam=SamConfig(), clip=ClipConfig())


def test_dimensions_of_a_small_model() -> None:
    config = ModelConfig.from_dict(toy_config())
    assert (config.hidden_size, config.head_dim, config.n_routed_experts) == (64, 16, 8)
    assert config.sam == SamConfig(
        width=32,
        layers=3,
        heads=2,
        global_layers=(1,),
        neck_channels=16,
        downsample_channels=(24, 32),
    )
    assert config.clip == ClipConfig(width=32, layers=2, heads=2)
    assert config.sam.px_per_token == 64


def test_every_size_can_be_told_by_the_file() -> None:
    raw = toy_config()
    raw["vision_config"]["image_size"] = 256
    raw["vision_config"]["width"]["sam_vit_b"] |= {
        "patch_size": 8,
        "window_size": 7,
        "mlp_ratio": 2,
    }
    raw["vision_config"]["width"]["clip-l-14-224"] |= {"image_size": 56, "mlp_ratio": 3}
    raw["language_config"] |= {"rope_theta": 50000, "rms_norm_eps": 1e-5}
    config = ModelConfig.from_dict(raw)
    assert (config.sam.position_grid, config.sam.window_size, config.sam.mlp_ratio) == (32, 7, 2)
    assert (config.clip.position_grid, config.clip.mlp_ratio) == (4, 3)
    assert (config.rope_theta, config.rms_norm_eps) == (50000, 1e-5)


def test_decoder_fields_may_stand_at_the_top_level_only() -> None:
    raw = full_config()
    del raw["language_config"]
    assert ModelConfig.from_dict(raw) == ModelConfig.from_dict(full_config())


def test_unused_keys_of_the_released_file_are_not_trusted() -> None:
    raw = full_config()
    raw["vision_config"]["mlp_ratio"] = 3.7362
    raw["language_config"] |= {"v_head_dim": 0, "kv_lora_rank": None, "lm_head": True}
    assert ModelConfig.from_dict(raw) == ModelConfig.from_dict(full_config())


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"architectures": ["DeepseekOCR2ForCausalLM"]}, "DeepSeek-OCR-2"),
        ({"vision_config": {"model_name": "deepencoderv2"}}, "DeepSeek-OCR-2"),
        ({"architectures": ["UnlimitedOCRForCausalLM"]}, "Unlimited-OCR"),
        ({"model_type": "unlimited-ocr"}, "Unlimited-OCR"),
        ({"architectures": ["LlamaForCausalLM"]}, "LlamaForCausalLM"),
        ({"architectures": None, "model_type": "qwen2_vl"}, "qwen2_vl"),
    ],
)
def test_another_network_is_refused_by_its_name(change: dict[str, Any], name: str) -> None:
    with pytest.raises(CheckpointError, match=name) as caught:
        ModelConfig.from_dict({**toy_config(), **change})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_mla", True),
        ("num_key_value_heads", 2),
        ("norm_topk_prob", True),
        ("rope_scaling", {"type": "yarn"}),
        ("num_experts_per_tok", 9),
        ("hidden_size", 66),
        ("hidden_size", "wide"),
        ("hidden_size", -64),
        ("num_hidden_layers", 0),
    ],
)
def test_a_decoder_that_this_code_is_not_is_refused(key: str, value: object) -> None:
    raw = toy_config()
    raw["language_config"][key] = value
    with pytest.raises(CheckpointError):
        ModelConfig.from_dict(raw)


@pytest.mark.parametrize("key", ["width", "heads", "downsample_channels"])
def test_missing_vision_dimensions_are_an_error(key: str) -> None:
    raw = toy_config()
    del raw["vision_config"]["width"]["sam_vit_b"][key]
    with pytest.raises(CheckpointError, match=key):
        ModelConfig.from_dict(raw)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "\x00"])
def test_a_file_that_is_no_configuration(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"config\.json") as caught:
        ModelConfig.from_file(path)
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not found"):
        ModelConfig.from_file(tmp_path / "config.json")


@pytest.mark.parametrize("where", ["vision_config", "language_config", "architectures"])
@pytest.mark.parametrize("value", [None, [], "x", 3, {"width": None}])
def test_malformed_sections_raise_nothing_else(where: str, value: object, tmp_path: Path) -> None:
    raw = {**toy_config(), where: value}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(raw), encoding="utf-8")
    try:
        ModelConfig.from_file(path)  # without language_config the top level has it all
    except CheckpointError as error:
        assert "\n" not in str(error)
