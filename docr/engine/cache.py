"""The KV cache: one preallocated block of memory, cut into rows, one a running page.

Shapes: B pages, T tokens of this call, K tokens to attend to, H heads, hd head dim, R rows,
L row length in tokens.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from docr.engine.model.decoder import attend, padded_count
from docr.engine.model.native import FEW_ROWS
from docr.engine.native import products
from docr.engine.sequence import Sequence

KEY_STEP = 64
"""Where rows are much longer than their pages, decoding attends over a multiple of this many keys;
those behind a page's end are masked."""

STEP = 32
"""Where docr's own kernels attend, steps too long for its products are of a multiple of this many
tokens: oneDNN may be asked for these, and keeps a kernel for each number of rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSize:
    """How large a KV cache is, and where.

    Attributes:
        tokens: of all pages together.
        longest: most tokens a page can have.
    """

    layers: int
    heads: int
    head_dim: int
    tokens: int
    longest: int
    device: torch.device
    dtype: torch.dtype


def bytes_per_token(*, layers: int, heads: int, head_dim: int, dtype: torch.dtype) -> int:
    """Memory that one token of one page takes in the cache."""
    return 2 * layers * heads * head_dim * dtype.itemsize


class KVCache:
    """Keys and values of all running pages.

    Each layer's keys, and its values, are a flat tensor seen as [R,H,L,hd]. Rows of running pages
    come first and without gaps, so that a decoding step reads a plain view of the first B rows
    and nothing is gathered or copied. Another row length is another view of the same memory; on
    a CPU, memory behind the rows in use is not even backed by the system.

    What lies behind a page's end in its row is masked, but must be finite: 0 x NaN would be NaN.
    So whenever a row gets other content, its rest is overwritten with zeros.
    """

    def __init__(self, size: CacheSize) -> None:
        self.tokens = size.tokens
        self._heads, self._head_dim = size.heads, size.head_dim
        a_token = size.heads * size.head_dim
        self._memory = [
            torch.empty(size.tokens * a_token, device=size.device, dtype=size.dtype)
            for _ in range(2 * size.layers)
        ]
        # Allocated now: memory running out while rows are half moved would ruin their pages.
        self._one_row = torch.empty(
            min(size.longest, size.tokens) * a_token, device=size.device, dtype=size.dtype
        )
        self._rows = self._views(size.tokens)
        self._pages: list[Sequence] = []

    def arrange(self, running: list[Sequence], row_length: int) -> None:
        """Give page i of `running` row i, of this length, keeping what rows of known pages hold.

        A known page's new row must not lie behind its old one, and new pages come last; removing
        pages by putting the last one in their place keeps to that.
        """
        for row, page in enumerate(running):
            if page in self._pages[row + 1 :]:
                source = self._pages.index(page)
                for rows in self._rows:
                    _fill(rows[row], rows[source], page.length - 1)
        kept = [page.length - 1 for page in running if page in self._pages]
        if row_length != self.row_length:
            self._cut(row_length, kept)
        for rows in self._rows:
            rows[len(kept) : len(running)] = 0
        self._pages = list(running)

    @property
    def row_length(self) -> int:
        """Tokens that a row has room for."""
        return self._rows[0].shape[2]

    def prefilling(self, pages: list[Sequence]) -> "Prefilling":
        """The cache as a prefill of these pages sees it; they may stand in any rows."""
        return Prefilling(self._rows, [self._pages.index(page) for page in pages])

    def decoding(self, pages: list[Sequence]) -> "Decoding":
        """The cache as one decoding step of all running pages, with their drafts, sees it."""
        assert len(pages) == len(self._pages), (len(pages), len(self._pages))
        begins = [page.length - 1 for page in pages]
        return Decoding(self._rows, begins, [1 + len(page.draft) for page in pages])

    def _views(self, row_length: int) -> list[Tensor]:
        count = self.tokens // row_length
        size = count * row_length * self._heads * self._head_dim
        shape = (count, self._heads, row_length, self._head_dim)
        return [memory[:size].view(shape) for memory in self._memory]

    def _cut(self, row_length: int, lengths: list[int]) -> None:
        """Cut the memory into rows of another length; row i keeps its first lengths[i] tokens."""
        old, new = self._rows, self._views(row_length)
        # Growing rows reach into later ones, shrinking rows into earlier ones.
        order = list(enumerate(lengths))
        if row_length > self.row_length:
            order.reverse()
        for before, after in zip(old, new, strict=True):
            for row, length in order:
                kept = self._one_row[: self._heads * length * self._head_dim]
                kept = kept.view(self._heads, length, self._head_dim)
                kept.copy_(before[row, :, :length])
                _fill(after[row], kept, length)
        self._rows = new


def _fill(row: Tensor, content: Tensor, length: int) -> None:
    """Overwrite a row [H,L,hd] with the first `length` tokens of `content`, zeros behind them."""
    row[:, :length] = content[:, :length]
    row[:, length:] = 0


class Prefilling:
    """Takes in whole prompts, padded at the end; implements model.decoder.KVCache."""

    def __init__(self, rows: list[Tensor], places: list[int]) -> None:
        self._rows = rows
        self._places = torch.tensor(places, device=rows[0].device)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store k, v [B,H,T,hd]; attention stays within this call."""
        T = k.shape[2]
        self._rows[2 * layer][self._places, :, :T] = k
        self._rows[2 * layer + 1][self._places, :, :T] = v
        return attend(q, k, v, None)


class Decoding:
    """Takes in the next tokens of each page, however many; implements model.decoder.RowCache.

    To the model they are one sequence, page after page, each token at its own position. The last
    one may be repeated in its place, so that there are not too many different lengths.

    Attributes:
        rows: keys and values of each layer, [>=B,H,L,hd].
        starts: i64 [B+1], where each page's tokens begin, and T.
        positions: i64 [1,T].

    Args:
        rows: the same.
        begins: the position of each page's first token.
        counts: of each page's tokens.
    """

    def __init__(self, rows: list[Tensor], begins: list[int], counts: list[int]) -> None:
        self.rows = rows
        total, starts = sum(counts), np.cumsum([0, *counts])
        self._native = products.attends(rows[0])
        if self._native:
            tokens = total if total <= FEW_ROWS else -(-total // STEP) * STEP
        else:
            tokens = padded_count(total)
        starts[-1] = tokens
        order = np.minimum(np.arange(tokens), total - 1)  # the last one again
        pages = np.repeat(np.arange(len(counts)), counts)[order]
        within = order - starts[pages]
        positions = np.array(begins)[pages] + within
        self.starts, self.positions = self._indexes(starts, positions[None])
        if self._native:
            return
        # A row of tokens a page, 1, 2, 3, 5 or 9 of them, the last one repeated here, too.
        drafted = max(counts) - 1
        longest = 1 + (1 << (drafted - 1).bit_length() if drafted else 0)
        grid = np.minimum(np.arange(longest), np.array(counts)[:, None] - 1) + starts[:-1, None]
        self._pages, self._within, self._grid = self._indexes(pages, within, grid)
        # In steps: each number of keys is another shape, and oneDNN keeps a kernel for each.
        length = rows[0].shape[2]
        needed = min(-(-(int(positions.max()) + 1) // KEY_STEP) * KEY_STEP, length)
        # A product with part of each row copies that part first, which costs as much again.
        self._longest = length if 2 * needed > length else needed
        seen = np.arange(self._longest) <= positions[grid][:, None, :, None]
        self._mask = torch.from_numpy(seen).to(rows[0].device)  # B,1,t,K

    def _indexes(self, *arrays: NDArray[np.int64]) -> list[Tensor]:
        return [torch.from_numpy(array).to(self.rows[0].device) for array in arrays]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store k, v [1,H,T,hd], and attend to all that the pages have so far."""
        if self._native:
            keys, values = self.rows[2 * layer : 2 * layer + 2]
            return products.attend(q, k, v, keys, values, self.positions, self.starts)
        queries = q[0].transpose(0, 1)[self._grid].transpose(1, 2)  # T,H,hd -> B,t,H,hd -> B,H,t,hd
        mixed = attend(queries, *self.extend(layer, k, v)).transpose(1, 2)  # B,H,t,hd -> B,t,H,hd
        return mixed[self._pages, self._within].transpose(0, 1)[None]  # T,H,hd -> 1,H,T,hd

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Store k, v [1,H,T,hd] without docr's kernels; what pages have, and what tokens see of it.

        Returns:
            Keys and values [B,H,K,hd], and a mask bool [B,1,t,K] for t tokens of each page.
        """
        both = []
        for rows, new in zip(self.rows[2 * layer : 2 * layer + 2], (k, v), strict=True):
            rows[self._pages, :, self.positions[0]] = new[0].transpose(0, 1)  # H,T,hd -> T,H,hd
            both.append(rows[: len(self._grid), :, : self._longest])
        return both[0], both[1], self._mask
