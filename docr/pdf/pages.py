"""Page ranges as people write them: "1-3,7,10-"."""

import re
from dataclasses import dataclass

from docr.errors import UsageError

_SPAN = re.compile(r"\s*(\d{1,9})\s*(?:(-)\s*(\d{1,9})?\s*)?")


@dataclass(frozen=True, slots=True)
class PageRanges:
    """Spans of 1-based page numbers, ends included; None as an end: to the last page."""

    spans: tuple[tuple[int, int | None], ...]

    def select(self, page_count: int) -> tuple[int, ...]:
        """Choose from a document.

        Returns:
            0-based indexes, ascending, each once; pages that the document lacks are left out.
        """
        chosen: set[int] = set()
        for first, last in self.spans:
            end = page_count if last is None else min(last, page_count)
            chosen.update(range(first - 1, end))
        return tuple(sorted(chosen))


def parse_page_ranges(text: str) -> PageRanges:
    """Read "1-3,7,10-".

    Raises:
        UsageError: it is not a comma-separated list of N, N-M and N-, with 1 <= N <= M.
    """
    spans: list[tuple[int, int | None]] = []
    for part in text.split(","):
        match = _SPAN.fullmatch(part)
        if match is None:
            raise UsageError(f"--pages {text!r}: {part.strip()!r} is not N, N-M or N-")
        first = int(match[1])
        last = int(match[3]) if match[3] else (None if match[2] else first)
        if first < 1:
            raise UsageError(f"--pages {text!r}: pages are counted from 1")
        if last is not None and last < first:
            raise UsageError(f"--pages {text!r}: {part.strip()!r} runs backwards")
        spans.append((first, last))
    return PageRanges(tuple(spans))
