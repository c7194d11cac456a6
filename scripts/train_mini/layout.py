"""Pages as truth knows them: placed words, where each glyph stands, and the exact text to write.

Units are page points, y down; a page is later stretched or padded to a view as the product does.
"""

import functools
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from PIL import ImageFont

from scripts.train_mini.fonts import Face

EM = 1000
"""Pixels at which a face is opened to be measured."""

CENTRE = 0.32
"""Of the em: how far above the baseline a line's middle lies, the same for all its glyphs."""

NO_GLYPH = -1
"""In a script: a character that no glyph stands for, such as the mark of a heading."""

Box = tuple[float, float, float, float]
Script = list[tuple[str, int]]
"""Characters of the text to write, each with the index of its glyph on the page or NO_GLYPH."""


@functools.cache
def _measuring_font(face: Face) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(face.path, EM, layout_engine=ImageFont.Layout.BASIC)


@functools.cache
def advance(face: Face, character: str) -> float:
    """Width of a character in ems; no kerning, so that glyphs stand where PDF puts them."""
    return _measuring_font(face).getlength(character) / EM


def text_width(face: Face, text: str) -> float:
    """Width of a text in ems."""
    return sum(advance(face, character) for character in text)


@dataclass(frozen=True, slots=True)
class Glyph:
    """A character on the page: its middle, its width, its type's size; spaces count as glyphs."""

    character: str
    x: float
    y: float
    width: float
    size: float


@dataclass(frozen=True, slots=True)
class Word:
    """A run of characters set in one face at one baseline."""

    text: str
    x: float
    baseline: float
    face: Face
    size: float


@dataclass(frozen=True, slots=True)
class Rule:
    """A filled or stroked rectangle: lines of tables, figures as boxes."""

    box: Box
    filled: bool = True


@dataclass(slots=True)
class Block:
    """A stretch of text with one label, in reading order.

    Attributes:
        label: as the official model names it: title, sub_title, text, table, image, ...
        script: what to write, without the block's marks of place.
        box: what is covered on the page.
    """

    label: str
    script: Script = field(default_factory=list)
    box: Box = (0.0, 0.0, 0.0, 0.0)


@dataclass(slots=True)
class Page:
    """A page being set."""

    width: float
    height: float
    words: list[Word] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    glyphs: list[Glyph] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)

    def put(self, word: Word) -> Script:
        """Place a word; returns its part of the script."""
        script: Script = []
        x = word.x
        for character in word.text:
            width = advance(word.face, character) * word.size
            y = word.baseline - CENTRE * word.size
            script.append((character, len(self.glyphs)))
            self.glyphs.append(Glyph(character, x + width / 2, y, width, word.size))
            x += width
        self.words.append(word)
        return script

    def put_space(self, left: float, right: float, baseline: float, size: float) -> Script:
        """Record the space between two words of a line."""
        self.glyphs.append(
            Glyph(" ", (left + right) / 2, baseline - CENTRE * size, max(0.0, right - left), size)
        )
        return [(" ", len(self.glyphs) - 1)]

    def plain(self) -> Script:
        """The page's Markdown: what the model writes for "Free OCR."."""
        script: Script = []
        for block in self.blocks:
            if not block.script:
                continue
            if script:
                script += unplaced("\n\n")
            script += block.script
        return script

    def grounded(self) -> Script:
        """The page's blocks with their places: what the model writes for a grounding prompt."""
        script: Script = []
        for block in self.blocks:
            if script:
                script += unplaced("\n\n")
            x0, y0, x1, y1 = (
                round(min(max(value / extent, 0.0), 1.0) * 999)
                for value, extent in zip(block.box, (self.width, self.height) * 2, strict=True)
            )
            place = f"<|ref|>{block.label}<|/ref|><|det|>[[{x0}, {y0}, {x1}, {y1}]]<|/det|>"
            script += unplaced(place + ("\n" if block.script else ""))
            script += block.script
        return script


def unplaced(text: str) -> Script:
    """A script of characters that no glyph stands for."""
    return [(character, NO_GLYPH) for character in text]


def script_text(script: Iterable[tuple[str, int]]) -> str:
    """The text of a script."""
    return "".join(character for character, _ in script)


@dataclass(frozen=True, slots=True)
class Style:
    """How lines are set.

    Attributes:
        size: of the type, in points.
        leading: from baseline to baseline, in points.
        align: "left", "justify", "center" or "right".
        hyphenate: share of the words too long for the rest of a line that are divided.
    """

    face: Face
    size: float
    leading: float
    align: str = "left"
    hyphenate: float = 0.0


def break_lines(
    words: Sequence[str], style: Style, width: float, rng: random.Random
) -> Iterator[list[str]]:
    """Fill lines of `width` points greedily; words wider than a line are cut into pieces."""
    space = advance(style.face, " ") * style.size
    line: list[str] = []
    used = 0.0
    queue = list(reversed(words))
    while queue:
        word = queue.pop()
        needed = text_width(style.face, word) * style.size
        if line and used + space + needed > width:
            room = width - used - space
            head, tail = _divide(word, style, room, rng)
            if head:
                line.append(head)
                queue.append(tail)
            else:
                queue.append(word)
            yield line
            line, used = [], 0.0
            continue
        if not line and needed > width:
            fits = max(1, _fitting(word, style, width))
            yield [word[:fits]]
            if word[fits:]:
                queue.append(word[fits:])
            continue
        used += needed + (space if line else 0.0)
        line.append(word)
    if line:
        yield line


def _divide(word: str, style: Style, room: float, rng: random.Random) -> tuple[str, str]:
    """Head with a hyphen that fits into `room` points, and the rest; no head: not divided."""
    if len(word) < 6 or not word.isalpha() or rng.random() >= style.hyphenate:
        return "", word
    fits = _fitting(word, style, room - advance(style.face, "-") * style.size)
    cut = min(fits, len(word) - 2)
    if cut < 2:
        return "", word
    return word[:cut] + "-", word[cut:]


def _fitting(word: str, style: Style, room: float) -> int:
    """How many characters of a word fit into `room` points."""
    used = 0.0
    for count, character in enumerate(word):
        used += advance(style.face, character) * style.size
        if used > room:
            return count
    return len(word)


def set_lines(
    page: Page, lines: Sequence[Sequence[str]], style: Style, left: float, top: float, width: float
) -> tuple[list[Script], Box]:
    """Place lines of words one below the other.

    Args:
        page: gets the words.
        lines: words of each line.
        style: how they are set.
        left, top, width: of the column, in points.

    Returns:
        The script of each line, and the box they cover.
    """
    scripts: list[Script] = []
    edges: list[tuple[float, float]] = []
    space = advance(style.face, " ") * style.size
    for row, line in enumerate(lines):
        baseline = top + 0.8 * style.size + row * style.leading
        widths = [text_width(style.face, word) * style.size for word in line]
        natural = sum(widths) + space * (len(line) - 1)
        gap = space
        if style.align == "justify" and row + 1 < len(lines) and len(line) > 1:
            # Like a typesetter: lines that would show holes are left ragged.
            gap = min(space + (width - natural) / (len(line) - 1), 3 * space)
        shift = {"center": 0.5, "right": 1.0}.get(style.align, 0.0)
        x = start = left + max(0.0, width - natural) * shift
        script: Script = []
        for word, word_width in zip(line, widths, strict=True):
            if script:
                script += page.put_space(x, x + gap, baseline, style.size)
                x += gap
            script += page.put(Word(word, x, baseline, style.face, style.size))
            x += word_width
        scripts.append(script)
        edges.append((start, x))
    bottom = top + style.size + (len(lines) - 1) * style.leading
    box = (min(start for start, _ in edges), top, max(end for _, end in edges), bottom)
    return scripts, box


def join(scripts: Sequence[Script], separator: str) -> Script:
    """Put a separator between scripts."""
    joined: Script = []
    for index, script in enumerate(scripts):
        if index:
            joined += unplaced(separator)
        joined += script
    return joined
