"""The recipe: one TOML file, read once into frozen values."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docr.engine.model.config import ModelConfig
from docr.modes.mode import MODES
from docr.settings import ModeName
from scripts.train_mini.labels import Slots

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
    dense: bool = False
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
    recipe = Recipe(
        data=DataRecipe(**{**data, "fonts": Path(data["fonts"]), "em_px": tuple(data["em_px"])}),
        slots=Slots(**raw["slots"]),
        stages=stages,
        config=_config(raw["model"], raw["sam"], raw["clip"]),
    )
    recipe.model  # noqa: B018  # checked now, not after an hour
    return recipe


def _config(decoder: dict[str, Any], sam: dict[str, Any], clip: dict[str, Any]) -> dict[str, Any]:
    """config.json in the released model's form."""
    decoder = decoder | {
        "bos_token_id": 0,
        "eos_token_id": 1,
        "num_key_value_heads": decoder["num_attention_heads"],
        "use_mla": False,
    }
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
