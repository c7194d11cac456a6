"""A tokenizer of bytes, with the special tokens of the official one under their official names."""

import os
import tempfile
from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

SPECIAL = (
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜▁pad▁｜>",
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
)


def write_tokenizer(path: Path) -> None:
    """Write tokenizer.json: ids 0 to 12 are special, the 256 after them are bytes."""
    names = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in SPECIAL])
    path.write_text(tokenizer.to_str(), encoding="utf-8")


@cache
def tokenizer_file() -> Path:
    """A tokenizer.json that outlives this process; several may make it at the same time."""
    content = Path(tempfile.mkstemp(prefix="docr-fake-", suffix=".json")[1])
    write_tokenizer(content)
    user = os.getuid() if hasattr(os, "getuid") else "user"
    path = Path(tempfile.gettempdir()) / f"docr-fake-tokenizer-{user}.json"
    content.replace(path)
    return path
