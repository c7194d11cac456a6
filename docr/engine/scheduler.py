"""Which pages run, and how the KV cache is divided among them. Policy only: no tensors.

The cache is memory for a fixed number of tokens. Either it is cut into equal rows, one a running
page, as long as the longest of them needs (in steps of BLOCK), and when a page outgrows the rows
all rows grow; or each page takes blocks of its own as it grows. When the pages no longer all fit,
the youngest is put back into the line. It keeps what it has generated and its vision tokens, and
is prefilled again later.
"""

import logging
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from docr.engine.sequence import Sequence

log = logging.getLogger(__name__)

BLOCK = 256
"""Row lengths are multiples of this: rows are moved about once in so many steps, not in each."""

BLOCK_TOKENS = 64
"""Tokens of a block, where pages take blocks of their own."""

HEADROOM = 256
"""Tokens that a page must be able to generate before it is admitted."""

T = TypeVar("T")


class Scheduler:
    """Continuous batching: pages are admitted as others finish.

    Attributes:
        running: pages being decoded; a page's place is its row in the cache. A page that leaves
            is replaced by the last one, so that rows stay dense.
        row_length: tokens a row must hold for the pages running now.
        max_pages: most pages that run at once; shrinks when memory runs out.

    Args:
        in_blocks: whether pages take blocks of the cache, or rows of one length.
    """

    def __init__(self, *, max_pages: int, cache_tokens: int, in_blocks: bool = False) -> None:
        self.max_pages = max_pages
        self.cache_tokens = cache_tokens
        self.running: list[Sequence] = []
        self.row_length = 0
        self._in_blocks = in_blocks
        self._waiting: deque[Sequence] = deque()
        self._settling = False

    @property
    def pending(self) -> int:
        """Pages waiting or running."""
        return len(self._waiting) + len(self.running)

    @property
    def wanted(self) -> int:
        """Pages to add now: a short line beyond the running ones keeps decoding batches full."""
        return max(0, self.max_pages + max(2, self.max_pages // 4) - self.pending)

    def add(self, page: Sequence) -> None:
        """Take a page into the line."""
        self._waiting.append(page)

    def admit(self) -> tuple[list[Sequence], list[Sequence]]:
        """Let waiting pages run, in order of arrival, as far as rows and memory go.

        Returns:
            The pages admitted, which must be prefilled, and those that do not fit even alone.
        """
        admitted: list[Sequence] = []
        too_large: list[Sequence] = []
        free = self.max_pages - len(self.running)
        # Prefilling in bursts: with many rows, one comes free in almost every step.
        burst = min(max(1, self.max_pages // 16), len(self._waiting))
        if self._settling or free < burst:
            return admitted, too_large
        lengths = [self._ahead(page, HEADROOM) for page in self.running]
        while self._waiting and len(self.running) < self.max_pages:
            page = self._waiting[0]
            wanted = self._ahead(page, HEADROOM)
            if self._fits([*lengths, wanted]):
                lengths.append(wanted)
                self.running.append(page)
                admitted.append(page)
            elif self.running:
                break
            else:
                too_large.append(page)
            self._waiting.popleft()
        if admitted:
            self._stretch(max(lengths))
        return admitted, too_large

    def reserve(self, tokens: int) -> list[Sequence]:
        """Make sure that every running page can grow by `tokens`, putting back the youngest.

        Returns:
            The page that has outgrown the whole cache, alone, and was taken out; else nothing.
        """
        while self.running:
            lengths = [self._ahead(page, tokens) for page in self.running]
            if self._fits(lengths):
                self._stretch(max(lengths))
                break
            if len(self.running) == 1:
                outgrown = self.running[0]
                self.remove(outgrown)
                return [outgrown]
            self._put_back_youngest()
        return []

    def remove(self, page: Sequence) -> None:
        """Take out a running page that is finished or has failed."""
        self._drop(page)
        self._settling = False

    def halve(self) -> None:
        """Run half as many pages from now on."""
        assert len(self.running) > 1, len(self.running)
        self.max_pages = len(self.running) // 2
        while len(self.running) > self.max_pages:
            self._put_back_youngest()

    def _put_back_youngest(self) -> None:
        page = max(self.running, key=lambda page: page.arrival)
        self._drop(page)
        self._waiting.appendleft(page)
        log.debug("%s p.%d: put back at %d tokens", page.ref.path, page.ref.number, page.length)
        # Not before another page has finished: it would soon be put back again.
        self._settling = True

    def _drop(self, page: Sequence) -> None:
        row = self.running.index(page)
        last = self.running.pop()
        if last is not page:
            self.running[row] = last

    def _stretch(self, tokens: int) -> None:
        """Make rows long enough; make them shorter only where they would be too many."""
        needed = _rounded(tokens, BLOCK)
        if needed > self.row_length or len(self.running) * self.row_length > self.cache_tokens:
            self.row_length = needed

    def _ahead(self, page: Sequence, tokens: int) -> int:
        """Length of a page after so many more tokens, or when it must end."""
        return min(page.length + tokens, page.max_length)

    def _fits(self, lengths: list[int]) -> bool:
        if self._in_blocks:
            return sum(_rounded(length, BLOCK_TOKENS) for length in lengths) <= self.cache_tokens
        return len(lengths) * _rounded(max(lengths), BLOCK) <= self.cache_tokens


def _rounded(tokens: int, step: int) -> int:
    """Tokens rounded up to a multiple of `step`."""
    return -(-tokens // step) * step


class BatchLimit:
    """How much a stage takes at once: a limit that shrinks when memory runs out.

    A batch costs its number of items times the cost of its dearest, since items are padded.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def take(self, items: deque[T], cost: Callable[[T], int], *, padding: float) -> list[T]:
        """Remove the next batch from the front of `items`; at least one item.

        Args:
            items: dearest first.
            cost: of an item.
            padding: how much cheaper than the first the others may be, as a share of its cost.
        """
        batch = [items.popleft()]
        dearest = cost(batch[0])
        while (
            items
            and cost(items[0]) >= (1 - padding) * dearest
            and (len(batch) + 1) * dearest <= self.limit
        ):
            batch.append(items.popleft())
        return batch

    def halve(self, batch_cost: int) -> None:
        """Remember that a batch of this cost was too much."""
        self.limit = batch_cost // 2
