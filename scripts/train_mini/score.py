"""How well pages were read, and whether they were read at all.

Texts are compared with runs of white space collapsed to one space. Marks of headings and lists
are part of the text. Nothing is clipped but precision: a page that babbles has a rate above one.

A language model that ignores the page can still write something like it. So every page's truth is
also compared with what the model wrote for another page and for a blank one: `reading` is how much
worse the better of these two is, and below READING a group of pages counts as not read.
"""

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rapidfuzz import fuzz
from rapidfuzz.distance import Levenshtein

READING = 0.40
"""Least distance in error rate between the right image and the better of the controls."""

BAD_STATES = ("truncated", "repetition")

_DRAWS = 1000
_LEADERS = re.compile(r"(?:[.·…_]\s?){4,}")
_MARKS = re.compile(r"^[ \t]*(?:#{1,6}|[-*•●▪‣])[ \t]+", re.MULTILINE)
_BARE_BULLET = re.compile(r"^[ \t]*[•●▪‣][ \t]*$", re.MULTILINE)


class Distance(NamedTuple):
    """Edits from an output to its truth, and the truth's length, in characters or words."""

    edits: int
    length: int

    @property
    def rate(self) -> float:
        """Edits per unit of truth; above 1 where the output is longer and wrong."""
        return self.edits / self.length


class Reading(NamedTuple):
    """What docr wrote for a page: its text and its state, tokens written and vision tokens."""

    text: str
    state: str
    output_tokens: int
    vision_tokens: int


@dataclass(frozen=True, slots=True)
class PageScore:
    """One page, compared.

    Attributes:
        state: as docr recorded it.
        characters, words: against the page's own output.
        wrong: characters, against the output for another page of the group.
        blank: characters, against the output for a blank page.
    """

    state: str
    characters: Distance
    words: Distance
    wrong: Distance
    blank: Distance

    @property
    def precision(self) -> float:
        """1 - edits / characters of the truth, at least 0.

        Where the output is longer than the truth, dividing by the longer of the two, as is also
        done, would give a higher figure.
        """
        return max(0.0, 1 - self.characters.rate)


@dataclass(frozen=True, slots=True)
class Summary:
    """A group of pages.

    Attributes:
        pages, characters: how many were read, and characters of their truths.
        cer, wer: all edits over the whole length.
        cer_low, cer_high: where `cer` falls in 95 % of resamplings of the pages.
        cer_mean: the mean of the pages' own rates.
        precision: mean over the pages.
        wrong, blank: `cer` of the controls.
        reading: min(wrong, blank) - cer.
        is_reading: whether that is at least READING.
        repetition: share of pages whose record says repetition or truncated.
        failed: pages without a result; they count as empty outputs.
    """

    pages: int
    characters: int
    cer: float
    cer_low: float
    cer_high: float
    cer_mean: float
    wer: float
    precision: float
    wrong: float
    blank: float
    reading: float
    is_reading: bool
    repetition: float
    failed: int


def collapse(text: str) -> str:
    """The text with every run of white space as one space, none at the ends."""
    return " ".join(text.split())


def without_marks(text: str) -> str:
    """The text without marks of headings and bullets, and with dot leaders cut short.

    For truths that come from a PDF's text layer, which has no Markdown; applied to both sides.
    """
    return _LEADERS.sub("... ", _MARKS.sub("", _BARE_BULLET.sub("", text)))


def character_distance(truth: str, output: str) -> Distance:
    """Edits of characters, white space collapsed."""
    truth, output = collapse(truth), collapse(output)
    return Distance(Levenshtein.distance(truth, output), len(truth))


def word_distance(truth: str, output: str) -> Distance:
    """Edits of words."""
    words = truth.split()
    return Distance(Levenshtein.distance(words, output.split()), len(words))


def score_pages(
    truths: Sequence[str], readings: Sequence[Reading], blanks: Sequence[str]
) -> list[PageScore]:
    """Compare a group of pages with their outputs and with the controls.

    Args:
        truths: of each page; none is empty.
        readings: of each page; those for another page are the same, rotated by one.
        blanks: what was written for a blank page of each page's shape.

    Raises:
        ValueError: a single page has no other page to be compared with.
    """
    if len(truths) < 2:
        raise ValueError("a group has at least two pages, or there is no wrong image")
    others = [*readings[1:], readings[0]]
    return [
        PageScore(
            reading.state,
            character_distance(truth, reading.text),
            word_distance(truth, reading.text),
            wrong=character_distance(truth, other.text),
            blank=character_distance(truth, blank),
        )
        for truth, reading, other, blank in zip(truths, readings, others, blanks, strict=True)
    ]


def summarise(scores: Sequence[PageScore]) -> Summary:
    """Add up a group of pages."""
    characters = [score.characters for score in scores]
    cer = total_rate(characters)
    wrong = total_rate([score.wrong for score in scores])
    blank = total_rate([score.blank for score in scores])
    low, high = interval(characters)
    reading = min(wrong, blank) - cer
    return Summary(
        pages=len(scores),
        characters=sum(distance.length for distance in characters),
        cer=cer,
        cer_low=low,
        cer_high=high,
        cer_mean=sum(distance.rate for distance in characters) / len(scores),
        wer=total_rate([score.words for score in scores]),
        precision=sum(score.precision for score in scores) / len(scores),
        wrong=wrong,
        blank=blank,
        reading=reading,
        is_reading=reading >= READING,
        repetition=sum(score.state in BAD_STATES for score in scores) / len(scores),
        failed=sum(score.state.startswith(("failed", "damaged")) for score in scores),
    )


def total_rate(distances: Sequence[Distance]) -> float:
    """All edits over the whole length."""
    return sum(d.edits for d in distances) / sum(d.length for d in distances)


def interval(distances: Sequence[Distance]) -> tuple[float, float]:
    """Where `total_rate` falls in 95 % of draws of as many pages, with replacement."""
    rng = random.Random(0)
    rates = sorted(total_rate(rng.choices(distances, k=len(distances))) for _ in range(_DRAWS))
    return rates[int(0.025 * _DRAWS)], rates[int(0.975 * _DRAWS) - 1]


def bag_f1(truth: Sequence[str], output: Sequence[str]) -> float:
    """F1 of two multisets, whatever their order: of words, or of characters."""
    common = (Counter(truth) & Counter(output)).total()
    return 2 * common / (len(truth) + len(output)) if truth or output else 1.0


def found(lines: Sequence[str], output: str) -> Distance:
    """Characters of the lines that are missing where the output comes nearest to each.

    Also finds something in any long text: to be read beside the same figure for a wrong output.
    """
    output = collapse(output)
    missing = total = 0
    for line in map(collapse, lines):
        place = output
        if len(output) > len(line):
            alignment = fuzz.partial_ratio_alignment(line, output)
            if alignment is not None:
                place = output[alignment.dest_start : alignment.dest_end]
        missing += min(len(line), Levenshtein.distance(line, place))
        total += len(line)
    return Distance(missing, total)
