"""From a folder of safetensors files to a model on its device, or one clear error.

Everything that headers can tell (names, shapes, dtypes, lengths) is checked before any weight is
read. Weights are read, not mapped: mapped pages would count as memory a second time.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor

from docr.engine.model.config import ModelConfig
from docr.engine.model.deepseek_ocr import DeepseekOCR
from docr.errors import CheckpointError, OutOfMemory

INDEX = "model.safetensors.index.json"
CHUNK_BYTES = 4 << 20  # read and checked while in the processor's cache
MAX_HEADER_BYTES = 100 << 20  # as safetensors itself limits it

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}

NAMES = (
    (r"^encoder\.sam\.patch_embed\.", "model.sam_model.patch_embed.proj."),
    (r"^encoder\.sam\.", "model.sam_model."),
    (r"^encoder\.clip\.class_embedding$", "model.vision_model.embeddings.class_embedding"),
    (
        r"^encoder\.clip\.position_embedding$",
        "model.vision_model.embeddings.position_embedding.weight",
    ),
    (r"^encoder\.clip\.pre_norm\.", "model.vision_model.pre_layrnorm."),  # sic
    (r"^encoder\.clip\.layers\.(\d+)\.", r"model.vision_model.transformer.layers.\1."),
    (r"^(model\.vision_model\..*)\.norm(\d)\.", r"\1.layer_norm\2."),
    (r"^(model\.vision_model\..*)\.attn\.qkv\.", r"\1.self_attn.qkv_proj."),
    (r"^(model\.vision_model\..*)\.attn\.proj\.", r"\1.self_attn.out_proj."),
    (r"^encoder\.projector\.", "model.projector.layers."),
    (r"^image_newline$", "model.image_newline"),
    (r"^embed_tokens$", "model.embed_tokens.weight"),
    (r"^view_separator$", "model.view_seperator"),  # sic
    (r"^decoder\.", "model."),
    (r"\.attention\.", ".self_attn."),
    (r"\.input_norm\.", ".input_layernorm."),
    (r"\.post_attention_norm\.", ".post_attention_layernorm."),
    (r"\.mlp\.gate$", ".mlp.gate.weight"),
    (r"\.mlp\.experts\.(\w+)$", r".mlp.experts.{expert}.\1.weight"),
)
"""Our parameters' names to the checkpoint's: patterns and replacements, applied in this order."""

PACKED = (
    (r"^(model\.layers\..*)\.qkv_proj\.", ("q_proj", "k_proj", "v_proj")),
    (r"^(model\.layers\..*)\.gate_up_proj\.", ("gate_proj", "up_proj")),
)
"""Matrices that the checkpoint holds apart and we hold one below the other."""

IGNORED = re.compile(
    r"position_ids$"  # a buffer that some re-saved copies carry
    r"|^model\.vision_model\.embeddings\.patch_embedding\.weight$"  # CLIP's eyes: SAM's are used
)


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies: `count` elements of `dtype`, from byte `begin` of the file on."""

    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


def load_model(model_dir: Path, *, device: torch.device | str, dtype: torch.dtype) -> DeepseekOCR:
    """Load a checkpoint in the official layout, ready for inference.

    Args:
        model_dir: folder with config.json and the *.safetensors files.
        device: where the parameters go.
        dtype: what they become; bf16, fp16 and fp32 files can become any of the three.

    Raises:
        CheckpointError: anything about the folder is not as it must be.
        OutOfMemory: the device has no room for the weights.
    """
    config = ModelConfig.from_file(model_dir / "config.json")
    stored = read_headers(model_dir)
    with init_empty_weights():
        model = DeepseekOCR(config).to(dtype)
    check_tensors(stored, checkpoint_tensors(model), model_dir)
    try:
        model.to_empty(device=device)
    except torch.OutOfMemoryError as error:
        gigabytes = sum(p.numel() for p in model.parameters()) * dtype.itemsize / 1e9
        raise OutOfMemory(
            f"{model_dir}: {gigabytes:.1f} GB of weights do not fit on {device}; "
            "free memory there, or choose another device"
        ) from error
    _read_weights(stored, checkpoint_tensors(model))
    return model.requires_grad_(False).eval()


def checkpoint_tensors(model: DeepseekOCR) -> dict[str, Tensor]:
    """All tensors of the official layout, by name, as views of the model's parameters.

    Each view is contiguous, so that a file can be read straight into it.
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        for pattern, replacement in NAMES:
            name = re.sub(pattern, replacement, name)
        parts = [parameter.detach()]
        if "{expert}" in name:
            parts = list(parts[0].unbind(0))
        for expert, part in enumerate(parts):
            tensors.update(_unpack(name.format(expert=expert), part))
    return tensors


def _unpack(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Split a packed matrix into what the checkpoint holds; others stay as they are."""
    for pattern, members in PACKED:
        if re.match(pattern, name):
            names = (re.sub(pattern, rf"\1.{member}.", name) for member in members)
            return dict(zip(names, tensor.chunk(len(members)), strict=True))
    return {name: tensor}


def read_headers(model_dir: Path) -> dict[str, StoredTensor]:
    """Find every tensor of a checkpoint, following its index where it has one.

    Raises:
        CheckpointError: no weights, a shard missing, cut short, or not a safetensors file.
    """
    stored: dict[str, StoredTensor] = {}
    for path, listed in _shards(model_dir):
        for name, tensor in _read_header(path):
            # A re-sharded copy may carry a tensor twice; the index says which one counts.
            if listed is None or name in listed:
                stored[name] = tensor
    return stored


def _shards(model_dir: Path) -> list[tuple[Path, set[str] | None]]:
    """The weight files, each with the names the index expects in it (None: no index)."""
    index = model_dir / INDEX
    if not index.is_file():
        single = sorted(model_dir.glob("*.safetensors"))
        if len(single) != 1:
            found = f"{len(single)} *.safetensors files but no {INDEX}" if single else "no weights"
            raise CheckpointError(
                f"{model_dir}: {found}; docr reads DeepSeek-OCR as published, in safetensors files"
            )
        return [(single[0], None)]
    try:
        weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        by_shard: dict[str, set[str]] = {}
        for name, shard in weight_map.items():
            by_shard.setdefault(str(shard), set()).add(name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: damaged index ({error!r}); fetch it again") from error
    for shard in by_shard:
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise CheckpointError(f"{index}: {shard!r} is no safetensors file of this folder")
    return [(model_dir / shard, names) for shard, names in sorted(by_shard.items())]


def _read_header(path: Path) -> Iterator[tuple[str, StoredTensor]]:
    """The tensors of one file. The format: length (u64), header (JSON), then the tensors' bytes."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            header = file.read(length) if length <= MAX_HEADER_BYTES else b""
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing; fetch the checkpoint again") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    if start == b"version ":
        raise CheckpointError(f"{path}: a Git LFS pointer, not the weights; run: git lfs pull")
    entries = _parse_header(path, header)
    end = 8 + length
    for name, entry in entries.items():
        try:
            kind, shape = str(entry["dtype"]), tuple(int(n) for n in entry["shape"])
            first, last = (int(offset) for offset in entry["data_offsets"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: damaged header at {name} ({error!r})") from error
        if IGNORED.search(name):
            end = max(end, 8 + length + last)
            continue
        if kind not in DTYPES:
            raise CheckpointError(
                f"{path}: {name} is stored as {kind}; docr reads {', '.join(DTYPES)}, "
                "not quantised weights"
            )
        tensor = StoredTensor(path, DTYPES[kind], shape, 8 + length + first)
        if min(first, *shape, 0) < 0 or tensor.nbytes != last - first:
            raise CheckpointError(f"{path}: damaged header: {name} has the wrong number of bytes")
        end = max(end, 8 + length + last)
        yield name, tensor
    if end != size:
        state = "cut short" if size < end else "longer than its header says"
        raise CheckpointError(
            f"{path}: {state} ({size:,} bytes instead of {end:,}); fetch this file again"
        )


def _parse_header(path: Path, header: bytes) -> dict[str, dict[str, Any]]:
    """The entries of a safetensors header, without its metadata."""
    try:
        entries = json.loads(header)
    except ValueError:
        entries = None
    if not isinstance(entries, dict):
        raise CheckpointError(f"{path}: not a safetensors file, or cut short; fetch it again")
    entries.pop("__metadata__", None)
    return entries


def check_tensors(
    stored: dict[str, StoredTensor], wanted: dict[str, Tensor], model_dir: Path
) -> None:
    """Compare what the files hold with what the network needs.

    Raises:
        CheckpointError: names are missing, unknown, or of another shape than config.json implies.
    """
    problems = {
        "missing": [name for name in wanted if name not in stored],
        "unknown": [name for name in stored if name not in wanted],
        "of another shape than config.json says": [
            f"{name} {list(stored[name].shape)} instead of {list(tensor.shape)}"
            for name, tensor in wanted.items()
            if name in stored and stored[name].shape != tuple(tensor.shape)
        ],
    }
    found = [
        f"{len(names)} {what} (first: {names[0]})" for what, names in problems.items() if names
    ]
    if found:
        raise CheckpointError(
            f"{model_dir}: not the weights of this DeepSeek-OCR: tensors {', '.join(found)}; "
            "config.json and all shards must come from one checkpoint"
        )


def _read_weights(stored: dict[str, StoredTensor], wanted: dict[str, Tensor]) -> None:
    """Fill the views in `wanted`, file by file in the order of the disk."""
    order = sorted(wanted, key=lambda name: (stored[name].path, stored[name].begin))
    staging = torch.empty(CHUNK_BYTES, dtype=torch.uint8)
    file: FileIO | None = None
    try:
        for name in order:
            source = stored[name]
            if file is None or file.name != str(source.path):
                if file is not None:
                    file.close()
                file = FileIO(str(source.path))
            _read_tensor(file, name, source, wanted[name].view(-1), staging)
    except OSError as error:
        raise CheckpointError(f"{source.path}: cannot be read: {error.strerror}") from error
    finally:
        if file is not None:
            file.close()


def _read_tensor(
    file: FileIO, name: str, source: StoredTensor, target: Tensor, staging: Tensor
) -> None:
    """Fill `target` [count], chunk by chunk, and refuse what is not a finite number."""
    direct = target.device.type == "cpu" and target.dtype == source.dtype
    file.seek(source.begin)
    step = CHUNK_BYTES // source.dtype.itemsize
    for start in range(0, len(target), step):
        chunk = target[start : start + step]
        read = chunk if direct else staging.view(source.dtype)[: len(chunk)]
        _read_exactly(file, read)
        values = read.to(chunk.dtype)
        # The sum is finite unless a value is not or, rarely, it is too large itself; it takes a
        # fortieth of the time of isfinite(), and an eighth of that of a sum with dtype=float32.
        if not math.isfinite(values.sum()) and not values.isfinite().all():
            kind = str(chunk.dtype).removeprefix("torch.")
            raise CheckpointError(
                f"{source.path}: {name} holds values that are not finite {kind} numbers; "
                "fetch this file again, or choose another dtype"
            )
        if not direct:
            chunk.copy_(values)


def _read_exactly(file: FileIO, tensor: Tensor) -> None:
    """Fill a contiguous CPU tensor from the file's position on."""
    left = memoryview(tensor.view(torch.uint8).numpy().data)
    while left:
        count = file.readinto(left)
        if not count:
            raise CheckpointError(f"{file.name}: cut short while reading; fetch this file again")
        left = left[count:]
