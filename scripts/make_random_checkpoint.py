"""Write a checkpoint with random weights in the official layout, of any size.

    python scripts/make_random_checkpoint.py OUT --preset toy
    python scripts/make_random_checkpoint.py OUT --preset full --dtype bf16     (6.7 GB)

It cannot read; it is for tests and for measuring speed. Weights are drawn so that every part of
the network matters to the result: a matrix keeps the size of what it multiplies, and the router
prefers different experts for different tokens.
"""

import argparse
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from docr.engine.model.config import ModelConfig
from docr.engine.model.deepseek_ocr import DeepseekOCR
from docr.engine.model.load import INDEX, checkpoint_tensors

SHARD = "model-00001-of-000001.safetensors"
DTYPES = {"bf16": (torch.bfloat16, "BF16"), "fp16": (torch.float16, "F16")} | {
    "fp32": (torch.float32, "F32")
}

BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
MARKUP = (
    "<image>",
    "<|ref|>",
    "<|/ref|>",
    "<|det|>",
    "<|/det|>",
    "<|grounding|>",
    "<td>",
    "</td>",
    "<tr>",
    "</tr>",
    "<|User|>",
    "<|Assistant|>",
)
FIRST_MARKUP_ID = 128815  # of the released tokenizer
MERGES = ("t h", "i n", "e r", "Ġ a", "Ġ th", "th e", "o n", "Ġth e")

SCALES = (
    (r"(norm\d?|pre_layrnorm|layernorm|neck\.[13])\.weight$", "one"),
    (r"(\.proj|out_proj|lin2|fc2|projector\.layers|pre_layrnorm)\.bias$", "stream bias"),
    (r"\.bias$", "bias"),
    (r"\.mlp\.gate\.weight$", "gate"),
    (r"(pos_embed|position_embedding\.weight|class_embedding)$", "stream"),
    (r"(embed_tokens\.weight|image_newline|view_seperator)$", "stream"),
    (r"(patch_embed\.proj|attn\.proj|lin2|neck\.2|net_2)\.weight$", "out"),
    (r"(out_proj|fc2|o_proj|down_proj)\.weight$", "out"),
)
"""How a tensor is drawn, by name; the first match counts, other matrices are "in".

"stream" is what the stream of activations starts from, "out" what is added to it later.
"""


def full_config() -> dict[str, Any]:
    """The released model's config.json, as far as it says anything."""
    decoder = {
        "bos_token_id": 0,
        "eos_token_id": 1,
        "first_k_dense_replace": 1,
        "hidden_size": 1280,
        "intermediate_size": 6848,
        "max_position_embeddings": 8192,
        "moe_intermediate_size": 896,
        "n_group": 1,
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "num_attention_heads": 10,
        "num_experts_per_tok": 6,
        "num_hidden_layers": 12,
        "num_key_value_heads": 10,
        "topk_group": 1,
        "topk_method": "greedy",
        "use_mla": False,
        "vocab_size": 129280,
    }
    sam = {
        "downsample_channels": [512, 1024],
        "global_attn_indexes": [2, 5, 8, 11],
        "heads": 12,
        "layers": 12,
        "width": 768,
    }
    clip = {"heads": 16, "image_size": 224, "layers": 24, "patch_size": 14, "width": 1024}
    return official_config(decoder, sam, clip)


def toy_config() -> dict[str, Any]:
    """Every feature of the network at widths that make a page a matter of milliseconds."""
    decoder = {
        "bos_token_id": 0,
        "eos_token_id": 1,
        "first_k_dense_replace": 1,
        "hidden_size": 64,
        "intermediate_size": 96,
        "max_position_embeddings": 8192,
        "moe_intermediate_size": 32,
        "n_routed_experts": 8,
        "n_shared_experts": 2,
        "num_attention_heads": 4,
        "num_experts_per_tok": 3,
        "num_hidden_layers": 3,
        "num_key_value_heads": 4,
        "use_mla": False,
        "vocab_size": 320,
    }
    sam = {
        "downsample_channels": [24, 32],
        "global_attn_indexes": [1],
        "heads": 2,
        "layers": 3,
        "out_chans": 16,
        "width": 32,
    }
    clip = {"heads": 2, "image_size": 224, "layers": 2, "patch_size": 14, "width": 32}
    return official_config(decoder, sam, clip)


def official_config(
    decoder: dict[str, Any], sam: dict[str, Any], clip: dict[str, Any]
) -> dict[str, Any]:
    """config.json in the released model's form."""
    return {
        "architectures": ["DeepseekOCRForCausalLM"],
        "language_config": decoder,
        "model_type": "deepseek_vl_v2",
        "projector_config": {
            "input_dim": 2 * clip["width"],
            "n_embed": decoder["hidden_size"],
            "projector_type": "linear",
        },
        "torch_dtype": "bfloat16",
        "vision_config": {
            "image_size": 1024,
            "model_name": "deeplip_b_l",
            "width": {"clip-l-14-224": clip, "sam_vit_b": sam},
        },
        **decoder,
    }


PRESETS = {"toy": toy_config, "full": full_config}


def tensor_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors in the official layout, the unused one included."""
    with init_empty_weights():
        model = DeepseekOCR(ModelConfig.from_dict(config))
    shapes = {name: tuple(tensor.shape) for name, tensor in checkpoint_tensors(model).items()}
    clip = config["vision_config"]["width"]["clip-l-14-224"]
    patch = clip["patch_size"]
    shapes["model.vision_model.embeddings.patch_embedding.weight"] = (
        clip["width"],
        3,
        patch,
        patch,
    )
    return shapes


def draw(
    name: str, shape: tuple[int, ...], generator: torch.Generator, stream_scale: float
) -> torch.Tensor:
    """Random values for a tensor, fp32."""
    kind = next((kind for pattern, kind in SCALES if re.search(pattern, name)), "in")
    values = torch.empty(shape).normal_(generator=generator)
    if kind == "one":
        # CLIP's first norm writes into the stream of activations, as no other does.
        scale = stream_scale if "pre_layrnorm" in name else 1.0
        return values.mul_(0.1).add_(1).mul_(scale)
    fan_in = math.prod(shape[1:]) if len(shape) > 1 else 1
    if name.endswith(("rel_pos_h", "rel_pos_w")):
        fan_in = shape[1]
    std = {
        "in": fan_in**-0.5,
        "out": fan_in**-0.5 * stream_scale,
        "gate": 1.5 * fan_in**-0.5,
        "stream": stream_scale,
        "bias": 0.1,
        "stream bias": 0.1 * stream_scale,
    }[kind]
    return values.mul_(std)


def write_checkpoint(
    out: Path,
    config: dict[str, Any],
    *,
    seed: int = 0,
    dtype: str = "bf16",
    stream_scale: float = 1.0,
) -> None:
    """Write config, weights, index and tokenizer to the folder `out`.

    Args:
        out: created where missing.
        config: as toy_config() or full_config() return it.
        seed: same seed, same bytes.
        dtype: "bf16", "fp16" or "fp32".
        stream_scale: size of what is added to the stream of activations between the layers. Near
            0.001 the variances that norms see come near their epsilons.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch_dtype, stored_dtype = DTYPES[dtype]
    shapes = tensor_shapes(config)
    entries, total = {}, 0
    for name, shape in shapes.items():
        size = math.prod(shape) * torch_dtype.itemsize
        offsets = [total, total + size]
        entries[name] = {"dtype": stored_dtype, "shape": shape, "data_offsets": offsets}
        total += size
    header = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
    header += b" " * (-len(header) % 8)
    generator = torch.Generator().manual_seed(seed)
    with (out / SHARD).open("wb") as file:  # tensor by tensor: the whole never is in memory
        file.write(len(header).to_bytes(8, "little") + header)
        for name, shape in shapes.items():
            tensor = draw(name, shape, generator, stream_scale).to(torch_dtype)
            file.write(tensor.flatten().view(torch.uint8).numpy().data)
    index = {"metadata": {"total_size": total}, "weight_map": dict.fromkeys(shapes, SHARD)}
    _write_json(out / INDEX, index)
    _write_json(out / "config.json", config)
    write_tokenizer(out, config["language_config"]["vocab_size"])


def write_tokenizer(out: Path, vocab_size: int) -> None:
    """Write a byte-level tokenizer with the official special tokens, smaller than the vocabulary.

    For the released vocabulary size the special tokens have the released ids, and ids between the
    bytes and them decode to words made of their number. The last ids have no token.
    """
    names = [BOS, EOS, PAD, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    names += [merge.replace(" ", "") for merge in MERGES]
    if vocab_size > FIRST_MARKUP_ID + len(MARKUP):
        names += [f"Ġw{i}" for i in range(len(names), FIRST_MARKUP_ID)]
    names += MARKUP
    assert len(names) < vocab_size, (len(names), vocab_size)
    vocab = {name: i for i, name in enumerate(names)}
    merges = [(left, right) for left, right in (merge.split() for merge in MERGES)]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [BOS, EOS, PAD, *MARKUP]
    tokenizer.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in special]
    )
    tokenizer.save(str(out / "tokenizer.json"))
    named = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}
    _write_json(
        out / "tokenizer_config.json",
        {"add_bos_token": True, "add_eos_token": False}
        | named
        | {
            "added_tokens_decoder": {
                str(vocab[name]): {"content": name, "special": True} for name in special
            },
            "tokenizer_class": "LlamaTokenizerFast",
        },
    )
    _write_json(
        out / "special_tokens_map.json",
        {"additional_special_tokens": ["<|User|>", "<|Assistant|>"], **named},
    )


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="toy")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="bf16")
    parser.add_argument(
        "--stream-scale",
        type=float,
        default=1.0,
        help="size of activations between layers; 0.001 brings norms near their epsilons",
    )
    args = parser.parse_args()
    write_checkpoint(
        args.out,
        PRESETS[args.preset](),
        seed=args.seed,
        dtype=args.dtype,
        stream_scale=args.stream_scale,
    )


if __name__ == "__main__":
    main()
