"""From token ids to text, and the ids that the engine must know by name."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from docr.errors import CheckpointError

EOS = "<｜end▁of▁sentence｜>"
CELL_TOKENS = ("<td>", "</td>")
TABLE_TOKENS = (*CELL_TOKENS, "<tr>", "</tr>")


class Detokenizer:
    """The checkpoint's tokenizer, read for its output side.

    Attributes:
        path: its tokenizer.json.
        eos_id: ends a page.
        cell_ids: open and close table cells: exempt from the n-gram rule.
        table_ids: those, and the ones that open and close rows.

    Args:
        path: tokenizer.json.

    Raises:
        CheckpointError: it cannot be read, or is without an end-of-sequence token.
    """

    def __init__(self, path: Path) -> None:
        try:
            # from_file would raise bare Exceptions.
            self._tokenizer = Tokenizer.from_buffer(path.read_bytes())
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: cannot read the tokenizer: {error}") from None
        eos_id = self._tokenizer.token_to_id(EOS)
        if eos_id is None:
            raise CheckpointError(f"{path}: has no token {EOS}; it is not DeepSeek-OCR's")
        self.path = path
        self.eos_id: int = eos_id
        self.cell_ids = self._ids(CELL_TOKENS)
        self.table_ids = self._ids(TABLE_TOKENS)

    def text(self, token_ids: Sequence[int]) -> str:
        """Decode, special tokens kept; bytes that are not UTF-8 become U+FFFD."""
        text: str = self._tokenizer.decode(list(token_ids), skip_special_tokens=False)
        return text

    def undecodable(self, rows: int) -> NDArray[np.bool_]:
        """Which rows [rows] of the model's vocabulary have no token; they must not be chosen."""
        mask = np.ones(rows, dtype=np.bool_)
        ids = np.array(list(self._tokenizer.get_vocab(with_added_tokens=True).values()))
        mask[ids[ids < rows]] = False
        return mask

    def _ids(self, names: Sequence[str]) -> frozenset[int]:
        ids = (self._tokenizer.token_to_id(name) for name in names)
        return frozenset(token for token in ids if token is not None)
