"""Which checkpoints docr knows by name: where they come from and which revision is meant."""

import difflib
from dataclasses import dataclass
from pathlib import Path

from docr.errors import ModelError


@dataclass(frozen=True, slots=True)
class HubModel:
    """A checkpoint on the Hugging Face hub.

    Attributes:
        name: what `--model` and `docr models` call it.
        repo: the hub's name of it.
        revision: the commit that is used unless another is asked for (40 hexadecimal digits).
        licence: of the weights, as an SPDX identifier.
        size_bytes: about what a download takes, for people; the hub says it exactly.
        summary: one line for `docr models list`.
    """

    name: str
    repo: str
    revision: str
    licence: str
    size_bytes: int
    summary: str


@dataclass(frozen=True, slots=True)
class BundledModel:
    """A checkpoint that comes with docr, as files of the package.

    Attributes:
        name, licence, summary: as of a `HubModel`.
        directory: the checkpoint's folder.
    """

    name: str
    directory: Path
    licence: str
    summary: str

    @property
    def size_bytes(self) -> int:
        """What its files take on disk; 0 where an installation lacks them."""
        return sum(path.stat().st_size for path in self.directory.glob("*") if path.is_file())


CatalogueEntry = HubModel | BundledModel

DEFAULT_MODEL = "mini"
FULL_MODEL = "deepseek-ocr"
"""The model that docr is made for, and that a small one's users are told about."""

CATALOGUE: dict[str, CatalogueEntry] = {
    entry.name: entry
    for entry in (
        BundledModel(
            name=DEFAULT_MODEL,
            directory=Path(__file__).parent / "mini",
            licence="MIT",
            summary="a small preview of the same architecture, for trying docr on large type",
        ),
        HubModel(
            name=FULL_MODEL,
            repo="deepseek-ai/DeepSeek-OCR",
            revision="9f30c71f441d010e5429c532364a86705536c53a",
            licence="MIT",
            # total_size of model.safetensors.index.json, and ten megabytes of tokenizer.
            size_bytes=6_672_212_480 + 10_000_000,
            summary="DeepSeek-OCR, 3.3 billion parameters, bfloat16",
        ),
    )
}

MODEL_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*.json")
"""Patterns of the files that are fetched: weights and data, never the repository's code."""


def find_entry(name: str) -> CatalogueEntry:
    """The entry of that name.

    Raises:
        ModelError: there is none; the message names the nearest.
    """
    entry = CATALOGUE.get(name)
    if entry is None:
        near = difflib.get_close_matches(name, CATALOGUE, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(CATALOGUE)}"
        raise ModelError(f"no model is called {name!r} and no such folder exists; {hint}")
    return entry
