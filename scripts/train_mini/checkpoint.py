"""Writing a trained model as a checkpoint in the official layout, which docr and others load."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from docr.engine.model.deepseek_ocr import DeepseekOCR
from docr.engine.model.load import INDEX, checkpoint_tensors
from docr.models.defaults import DEFAULTS_FILE
from docr.settings import ModeName, Task

MAX_SHARD_BYTES = 5_000_000_000


def write_checkpoint(
    model: DeepseekOCR,
    source: Path,
    out: Path,
    *,
    name: str,
    mode: ModeName,
    task: Task,
    preview: str | None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write a model without adapters in the official layout, in bf16.

    Args:
        model: the weights.
        source: a folder whose config.json and tokenizer are copied.
        out: the folder; an earlier one is replaced when the new one is whole.
        name, mode, task, preview: for docr.json; see docr.models.defaults.
        max_shard_bytes: weights of more bytes are cut into several files and an index.
    """
    fresh = out.with_name(out.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for path in sorted(source.glob("*.json")):
        if path.name not in (DEFAULTS_FILE, INDEX):
            shutil.copyfile(path, fresh / path.name)
    files = _write_weights(checkpoint_tensors(model), fresh, max_shard_bytes)
    content: dict[str, Any] = {"name": name, "mode": mode, "task": task}
    if preview is not None:
        content["preview"] = preview
    content["sha256"] = {file: _sha256(fresh / file) for file in files}
    _write_json(fresh / DEFAULTS_FILE, content)
    shutil.rmtree(out, ignore_errors=True)
    fresh.replace(out)


def _write_weights(tensors: dict[str, Tensor], folder: Path, max_shard_bytes: int) -> list[str]:
    """Write one file, or several and their index; return the names."""
    shards: list[list[str]] = [[]]
    size = total = 0
    for name, tensor in tensors.items():
        nbytes = tensor.numel() * torch.bfloat16.itemsize
        if shards[-1] and size + nbytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size, total = size + nbytes, total + nbytes
    numbers, count = range(1, len(shards) + 1), len(shards)
    files = [f"model-{number:05}-of-{count:06}.safetensors" for number in numbers]
    if count == 1:
        files = ["model.safetensors"]
    else:
        places = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": places})
    for file, names in zip(files, shards, strict=True):
        # Cloned: safetensors refuses the views of one packed matrix.
        halves = {name: tensors[name].to("cpu", torch.bfloat16).clone() for name in names}
        save_file(halves, folder / file, metadata={"format": "pt"})
    return files


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
