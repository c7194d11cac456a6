"""The recipe: one TOML file, read once into frozen values."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docr.engine.model.config import ModelConfig
from docr.modes.mode import MODES
from docr.settings import ModeName
from scripts.make_random_checkpoint import official_config
from scripts.train_mini.labels import Slots
from scripts.train_mini.tokenizer import BOS_ID, EOS_ID

RECIPE = Path(__file__).with_name("recipe.toml")


@dataclass(frozen=True, slots=True)
class DataRecipe:
    """Which pages are made: see recipe.toml."""

    fonts: Path
    mode: ModeName
    em_px: tuple[float, float]
    min_pitch_px: float
    grounded: float
    two_columns: float
    furniture: float
    turned: float
    blocks: dict[str, float]

    @property
    def view_px(self) -> int:
        """Side of the view."""
        return MODES[self.mode].base_px


@dataclass(frozen=True, slots=True)
class StageRecipe:
    """How a stage trains: see recipe.toml. What a stage does not have is left at its default."""

    batch: int
    muon: float
    adam: float
    grids: tuple[tuple[int, int], ...] = ()
    unlock: int = 1
    noise: float = 0.0
    drop: float = 0.0
    dense: float = 0.0
    apart: bool = False


@dataclass(frozen=True, slots=True)
class Recipe:
    """All of it; `config` is what becomes config.json."""

    data: DataRecipe
    slots: Slots
    stages: dict[str, StageRecipe]
    config: dict[str, Any]

    @property
    def model(self) -> ModelConfig:
        """The network's dimensions."""
        return ModelConfig.from_dict(self.config, source="recipe")


def load_recipe(path: Path = RECIPE) -> Recipe:
    """Read a recipe.

    Raises:
        TypeError: a key is unknown or missing.
        CheckpointError: the dimensions do not fit together.
    """
    raw = tomllib.loads(path.read_text(encoding="utf-8"))
    data = raw["data"]
    stages = {
        name: StageRecipe(**{**stage, "grids": tuple(map(tuple, stage.get("grids", ())))})
        for name, stage in raw["stage"].items()
    }
    decoder = raw["model"] | {
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        "num_key_value_heads": raw["model"]["num_attention_heads"],
        "use_mla": False,
    }
    recipe = Recipe(
        data=DataRecipe(**{**data, "fonts": Path(data["fonts"]), "em_px": tuple(data["em_px"])}),
        slots=Slots(**raw["slots"]),
        stages=stages,
        config=official_config(decoder, raw["sam"], raw["clip"]),
    )
    recipe.model  # noqa: B018  # checked now, not after an hour
    return recipe
