"""Turn a leg of the whole into a checkpoint in the official layout.

    python -m scripts.train_mini.export .train/whole OUT [--preview TEXT]

Writes config.json, tokenizer.json, model.safetensors (bf16, at most 32 MB) and docr.json to OUT;
heads and ideal codes are dropped. `--preview` is the line that every run shows of this model.
"""

import argparse
import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from docr.engine.model.load import checkpoint_tensors
from scripts.train_mini.recipe import RECIPE, load_recipe
from scripts.train_mini.tokenizer import save_tokenizer
from scripts.train_mini.trainee import Trainee
from scripts.train_mini.weights import load_leg

WEIGHTS = "model.safetensors"
MAX_BYTES = 32_000_000


def export(legs: Path, out: Path, recipe_file: Path, preview: str | None) -> None:
    """Write the checkpoint.

    Raises:
        SystemExit: there are no weights, or they are too large to ship.
    """
    recipe = load_recipe(recipe_file)
    trainee = Trainee(recipe)
    if load_leg(trainee, legs) is None:
        raise SystemExit(f"{legs}: no weights of a leg")
    write_checkpoint(trainee, recipe.config, out)
    describe(out, mode=recipe.data.mode, preview=preview)


def write_checkpoint(trainee: Trainee, config: dict[str, object], out: Path) -> None:
    """Write config, tokenizer and weights of the model in training."""
    out.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.to("cpu", torch.bfloat16).contiguous().clone()
        for name, tensor in checkpoint_tensors(trainee.model).items()
    }
    save_file(tensors, out / WEIGHTS, metadata={"format": "pt"})
    size = (out / WEIGHTS).stat().st_size
    if size > MAX_BYTES:
        raise SystemExit(f"{out / WEIGHTS}: {size:,} bytes; what ships has at most {MAX_BYTES:,}")
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    save_tokenizer(out)


def describe(out: Path, *, mode: str, preview: str | None) -> None:
    """Write docr.json: the checkpoint's defaults, what it can read, its digest."""
    digest = hashlib.sha256((out / WEIGHTS).read_bytes()).hexdigest()
    content = {"name": "docr-mini", "mode": mode, "task": "ocr", "preview": preview}
    kept = {key: value for key, value in content.items() if value is not None}
    (out / "docr.json").write_text(
        json.dumps(kept | {"sha256": {WEIGHTS: digest}}, indent=1, ensure_ascii=False) + "\n",
        encoding="utf-8",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("legs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--preview", help="what it can read, with its measured error")
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    arguments = parser.parse_args()
    export(arguments.legs, arguments.out, arguments.recipe, arguments.preview)


if __name__ == "__main__":
    main()
