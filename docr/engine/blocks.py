"""The KV cache of a device with graphs: blocks of 64 tokens, any of which may be any page's.

Shapes: B rows, T tokens of this call, H heads, hd head dim, N blocks, M blocks a row may have.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from docr.engine.cache import CacheSize
from docr.engine.model.decoder import attend
from docr.engine.paged_attention import paged_attention
from docr.engine.scheduler import BLOCK_TOKENS
from docr.engine.sequence import Sequence

NOBODYS = 0
"""A block that belongs to no page: what padding writes goes there, and no page reads it."""


class BlockCache:
    """Keys and values of all running pages, in blocks that are given out as pages grow.

    Each layer's keys, and its values, are one tensor [N,64,H,hd] that never moves, so that a
    captured graph may hold it.
    """

    def __init__(self, size: CacheSize) -> None:
        count = 1 + size.tokens // BLOCK_TOKENS
        # A column more: a draft may reach beyond the longest page, into nobody's block.
        self.row_blocks = 1 + blocks_for(size.longest)
        self._device = size.device
        shape = (count, BLOCK_TOKENS, size.heads, size.head_dim)
        self._blocks = [
            torch.zeros(shape, device=size.device, dtype=size.dtype) for _ in range(2 * size.layers)
        ]
        self._free = list(range(count - 1, NOBODYS, -1))
        self._owned: dict[Sequence, list[int]] = {}

    def arrange(self, running: list[Sequence], ahead: int) -> None:
        """Give each running page room for so many tokens more; take back what others had."""
        gone = self._owned.keys() - set(running)
        for page in gone:
            self._free += self._owned.pop(page)
        for page in running:
            owned = self._owned.setdefault(page, [])
            wanted = blocks_for(min(page.length + ahead, page.max_length))
            while len(owned) < wanted:
                owned.append(self._free.pop())

    def table(self, pages: list[Sequence], rows: int) -> NDArray[np.int32]:
        """[rows,M]: the blocks of each page; NOBODYS behind its last and in rows without a page."""
        table = np.full((rows, self.row_blocks), NOBODYS, np.int32)
        for row, page in zip(table, pages, strict=False):
            owned = self._owned[page]
            row[: len(owned)] = owned
        return table

    def prefilling(self, pages: list[Sequence]) -> "Prefilling":
        """The cache as a prefill of these pages sees it."""
        longest = max(page.length for page in pages)
        token = np.arange(longest)
        block = self.table(pages, len(pages))[:, token // BLOCK_TOKENS].astype(np.int64)
        lengths = np.array([page.length for page in pages])[:, None]
        place = np.where(token < lengths, block, NOBODYS) * BLOCK_TOKENS + token % BLOCK_TOKENS
        return Prefilling(self._blocks, torch.from_numpy(place).to(self._device))

    def decoding(self, table: Tensor, positions: Tensor) -> "Decoding":
        """The cache as a decoding step sees it: table i32 [B,M], positions i64 [B,T]."""
        return Decoding(self._blocks, table, positions)


def blocks_for(tokens: int) -> int:
    """Blocks that hold so many tokens."""
    return -(-tokens // BLOCK_TOKENS)


class Prefilling:
    """Takes in whole prompts, padded at the end; implements model.decoder.KVCache."""

    def __init__(self, blocks: list[Tensor], place: Tensor) -> None:
        self._blocks, self._place = blocks, place

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store k, v [B,H,T,hd]; attention stays within this call."""
        _store(self._blocks, layer, self._place, k, v)
        return attend(q, k, v, None)


class Decoding:
    """Takes in a few tokens a row, each row at its own place; implements model.decoder.KVCache.

    All of it is tensors of fixed shapes on the device.
    """

    def __init__(self, blocks: list[Tensor], table: Tensor, positions: Tensor) -> None:
        self._blocks, self._table, self._positions = blocks, table, positions
        block = table.gather(1, positions // BLOCK_TOKENS).long()
        self._place = block * BLOCK_TOKENS + positions % BLOCK_TOKENS

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store k, v [B,H,T,hd], and attend to all up to each token's position."""
        _store(self._blocks, layer, self._place, k, v)
        keys, values = self._blocks[2 * layer : 2 * layer + 2]
        return paged_attention(q, keys, values, self._table, self._positions)


def _store(blocks: list[Tensor], layer: int, place: Tensor, k: Tensor, v: Tensor) -> None:
    """Write k, v [B,H,T,hd] to places i64 [B,T] of a layer's blocks, counted in tokens."""
    for kept, new in zip(blocks[2 * layer : 2 * layer + 2], (k, v), strict=True):
        kept.flatten(0, 1)[place] = new.transpose(1, 2)  # B,H,T,hd -> B,T,H,hd
