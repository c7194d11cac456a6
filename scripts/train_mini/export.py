"""Turn a leg of the whole into a checkpoint in the official layout.

    python -m scripts.train_mini.export .train/whole OUT [--preview TEXT]

Writes config.json, tokenizer.json, model.safetensors (bf16, at most 32 MB) and docr.json to OUT;
heads and ideal codes are dropped. `--preview` is the line that every run shows of this model.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

from scripts.train_mini.checkpoint import write_checkpoint
from scripts.train_mini.recipe import RECIPE, load_recipe
from scripts.train_mini.tokenizer import save_tokenizer
from scripts.train_mini.trainee import Trainee
from scripts.train_mini.weights import load_leg

MAX_BYTES = 32_000_000
"""Of the weights: what every clone and every wheel carries."""


def export(legs: Path, out: Path, recipe_file: Path, preview: str | None) -> None:
    """Write the checkpoint.

    Raises:
        SystemExit: there are no weights, or they are too large to ship.
    """
    recipe = load_recipe(recipe_file)
    trainee = Trainee(recipe)
    if load_leg(trainee, legs) is None:
        raise SystemExit(f"{legs}: no weights of a leg")
    size = 2 * sum(parameter.numel() for parameter in trainee.model.parameters())
    if size > MAX_BYTES:
        raise SystemExit(f"{size:,} bytes of weights; what ships has at most {MAX_BYTES:,}")
    with tempfile.TemporaryDirectory() as folder:
        source, written = Path(folder) / "source", Path(folder) / "written"
        source.mkdir()
        (source / "config.json").write_text(
            json.dumps(recipe.config, indent=1) + "\n", encoding="utf-8"
        )
        save_tokenizer(source)
        write_checkpoint(
            trainee.model,
            source,
            written,
            name="docr-mini",
            mode=recipe.data.mode,
            task="ocr",
            preview=preview,
        )
        # Copied, so that the model card in the folder stays.
        shutil.copytree(written, out, dirs_exist_ok=True)


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
