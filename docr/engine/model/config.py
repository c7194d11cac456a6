"""The network's dimensions, read from a checkpoint's own config.json.

Every size comes from the file, so a toy, a small and the released model are the same code.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from docr.errors import CheckpointError

ARCHITECTURE = "DeepseekOCRForCausalLM"

RELATIVES = {
    "DeepseekOCR2ForCausalLM": "DeepSeek-OCR-2",
    "UnlimitedOCRForCausalLM": "Unlimited-OCR",
}
"""Architectures that resemble ours closely enough to be met by mistake, by their people's name."""

FIXED: dict[str, Any] = {
    "use_mla": False,
    "n_group": 1,
    "topk_group": 1,
    "topk_method": "greedy",
    "scoring_func": "softmax",
    "norm_topk_prob": False,
    "routed_scaling_factor": 1.0,
    "moe_layer_freq": 1,
    "hidden_act": "silu",
    "attention_bias": False,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "lm_head": True,
}
"""Decoder settings this code has built in; a file that says otherwise is another network."""

DECODER_FIELDS: dict[str, type[int] | type[float]] = {
    "vocab_size": int,
    "hidden_size": int,
    "num_hidden_layers": int,
    "num_attention_heads": int,
    "intermediate_size": int,
    "moe_intermediate_size": int,
    "n_routed_experts": int,
    "n_shared_experts": int,
    "num_experts_per_tok": int,
    "first_k_dense_replace": int,
    "max_position_embeddings": int,
    "rms_norm_eps": float,
    "rope_theta": float,
    "bos_token_id": int,
    "eos_token_id": int,
}
"""What is read of the decoder's settings; absent ones have the released model's values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamConfig:
    """The first half of DeepEncoder: SAM's ViT-B, its neck and the 16x compressor.

    Attributes:
        global_layers: the blocks that attend over the whole view; all others attend in windows.
        window_size: side of an attention window, in patches.
        position_grid: side of the stored position table, in patches.
        neck_channels, downsample_channels: after the neck, net_2 and net_3.
    """

    width: int = 768
    layers: int = 12
    heads: int = 12
    global_layers: tuple[int, ...] = (2, 5, 8, 11)
    patch_size: int = 16  # px
    window_size: int = 14
    position_grid: int = 64
    mlp_ratio: float = 4.0
    neck_channels: int = 256
    downsample_channels: tuple[int, int] = (512, 1024)
    layer_norm_eps: float = 1e-6

    @property
    def head_dim(self) -> int:
        """Channels of an attention head."""
        return self.width // self.heads

    @property
    def px_per_token(self) -> int:
        """Side in pixels of the square a vision token stands for: two stride-2 convolutions."""
        return 4 * self.patch_size


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipConfig:
    """The second half of DeepEncoder: CLIP-L without its patch convolution.

    Attributes:
        position_grid: side of the stored position table, in tokens, class token aside.
    """

    width: int = 1024
    layers: int = 24
    heads: int = 16
    position_grid: int = 16
    mlp_ratio: float = 4.0
    layer_norm_eps: float = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """All dimensions of the network; field names of the decoder are those of config.json."""

    sam: SamConfig
    clip: ClipConfig
    vocab_size: int = 129280
    hidden_size: int = 1280
    num_hidden_layers: int = 12
    num_attention_heads: int = 10
    intermediate_size: int = 6848
    moe_intermediate_size: int = 896
    n_routed_experts: int = 64
    n_shared_experts: int = 2
    num_experts_per_tok: int = 6
    first_k_dense_replace: int = 1
    max_position_embeddings: int = 8192
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    bos_token_id: int = 0
    eos_token_id: int = 1

    @property
    def head_dim(self) -> int:
        """Channels of a decoder attention head."""
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def from_file(cls, path: Path) -> "ModelConfig":
        """Read a checkpoint's config.json.

        Args:
            path: the file itself.

        Raises:
            CheckpointError: the file is missing or malformed, or describes another network.
        """
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CheckpointError(
                f"{path}: not found; the model folder must hold config.json, the tokenizer and "
                "the *.safetensors weights"
            ) from None
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path}: not valid JSON ({error}); fetch it again") from error
        if not isinstance(raw, dict):
            raise CheckpointError(f"{path}: not a model configuration (no JSON object)")
        return cls.from_dict(raw, source=str(path))

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], *, source: str = "config") -> "ModelConfig":
        """Build the configuration from the parsed config.json.

        Args:
            raw: its content; decoder fields in "language_config" or at the top level.
            source: what to call it in messages.

        Raises:
            CheckpointError: it describes another network.
        """
        _refuse_relatives(raw, source)
        try:
            language = {**raw, **(raw.get("language_config") or {})}
            for key, value in FIXED.items():
                if language.get(key, value) != value:
                    raise CheckpointError(
                        f"{source}: {key} is {language[key]!r}, DeepSeek-OCR has {value!r}; "
                        "this checkpoint is another network"
                    )
            decoder: dict[str, Any] = {
                name: kind(language[name])
                for name, kind in DECODER_FIELDS.items()
                if language.get(name) is not None
            }
            config = cls(sam=_sam_config(raw), clip=_clip_config(raw), **decoder)
            config._check(int(language.get("num_key_value_heads") or config.num_attention_heads))
        except (TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError) as error:
            raise CheckpointError(
                f"{source}: not a usable configuration ({type(error).__name__}: {error})"
            ) from error
        return config

    def _check(self, key_value_heads: int) -> None:
        """Raise ValueError where dimensions do not fit together."""
        sam, clip = self.sam, self.clip
        sizes = {name: getattr(self, name) for name in DECODER_FIELDS} | asdict(sam) | asdict(clip)
        may_be_zero = ("first_k_dense_replace", "bos_token_id", "eos_token_id")
        for name, size in sizes.items():
            if isinstance(size, int | float) and size < (0 if name in may_be_zero else 1e-12):
                raise ValueError(f"{name} is {size}")
        rules = {
            "num_key_value_heads must equal num_attention_heads": (
                key_value_heads == self.num_attention_heads
            ),
            "hidden_size must be a multiple of 2 x num_attention_heads": (
                self.hidden_size % (2 * self.num_attention_heads) == 0
            ),
            "num_experts_per_tok must be 1 to n_routed_experts": (
                1 <= self.num_experts_per_tok <= self.n_routed_experts
            ),
            "SAM's width must be a multiple of its heads": sam.width % sam.heads == 0,
            "CLIP's width must be a multiple of its heads": clip.width % clip.heads == 0,
            "CLIP's width must equal the last of downsample_channels": (
                clip.width == sam.downsample_channels[1]
            ),
            "global_attn_indexes must name layers": (
                all(0 <= layer < sam.layers for layer in sam.global_layers)
            ),
        }
        for rule, holds in rules.items():
            if not holds:
                raise ValueError(rule)


def _refuse_relatives(raw: Mapping[str, Any], source: str) -> None:
    """Raise CheckpointError, naming what it is, unless `raw` describes DeepSeek-OCR."""
    architectures = raw.get("architectures") or []
    named = str(architectures[0]) if isinstance(architectures, list) and architectures else None
    vision = raw.get("vision_config") or {}
    found = RELATIVES.get(named or "", named)
    # OCR-2 shares model_type with the first one, so its vision model's name decides as well.
    if isinstance(vision, dict) and vision.get("model_name") == "deepencoderv2":
        found = RELATIVES["DeepseekOCR2ForCausalLM"]
    elif raw.get("model_type") == "unlimited-ocr":
        found = RELATIVES["UnlimitedOCRForCausalLM"]
    if found != ARCHITECTURE:
        what = found or f"an unnamed architecture (model_type {raw.get('model_type')!r})"
        raise CheckpointError(
            f"{source}: these are weights of {what}; docr runs DeepSeek-OCR ({ARCHITECTURE})"
        )


def _sam_config(raw: Mapping[str, Any]) -> SamConfig:
    vision = raw["vision_config"]
    # vision_config.mlp_ratio (3.7362 in the released file) is used by nothing: the towers have 4.
    sam = vision["width"]["sam_vit_b"]
    patch_size = int(sam.get("patch_size", 16))
    net_2, net_3 = sam["downsample_channels"]
    return SamConfig(
        width=int(sam["width"]),
        layers=int(sam["layers"]),
        heads=int(sam["heads"]),
        global_layers=tuple(int(layer) for layer in sam["global_attn_indexes"]),
        patch_size=patch_size,
        window_size=int(sam.get("window_size", 14)),
        position_grid=int(vision.get("image_size", 1024)) // patch_size,
        mlp_ratio=float(sam.get("mlp_ratio", 4)),
        neck_channels=int(sam.get("out_chans", 256)),
        downsample_channels=(int(net_2), int(net_3)),
    )


def _clip_config(raw: Mapping[str, Any]) -> ClipConfig:
    clip = raw["vision_config"]["width"]["clip-l-14-224"]
    return ClipConfig(
        width=int(clip["width"]),
        layers=int(clip["layers"]),
        heads=int(clip["heads"]),
        position_grid=int(clip.get("image_size", 224)) // int(clip.get("patch_size", 14)),
        mlp_ratio=float(clip.get("mlp_ratio", 4)),
    )
