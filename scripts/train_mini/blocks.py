"""Blocks that are more than lines of text: tables, code, formulas, figures with captions.

Each function sets one block below `y` in a column and returns where the next may begin; where
there is no room it sets nothing and returns `y`. The text to write is what the official model
writes: HTML tables, LaTeX between \\[ and \\], captions in <center>, fenced code.
"""

import dataclasses
import random
from collections.abc import Sequence

from scripts.train_mini.fonts import Face
from scripts.train_mini.layout import (
    Block,
    Box,
    Page,
    Rule,
    Script,
    Style,
    Word,
    break_lines,
    join,
    set_lines,
    text_width,
    unplaced,
)
from scripts.train_mini.text import Writer

_LETTERS = "abcdefghijkmnpqrstuvwxyzABCDEFGHKLMNPQRSTVWXYZ"
_MONO = ("mono", "courier", "cursor", "hack", "firacode", "inconsolata", "typewriter")


def set_table(page: Page, style: Style, column: Box, y: float, writer: Writer) -> float:
    """A table with or without rules; its cells hold words and numbers of one line."""
    rng = writer.rng
    left, _, right, bottom = column
    columns, rows = rng.randint(2, 4), rng.randint(2, 5)
    width = (right - left) / columns
    pitch = style.leading * rng.uniform(1.0, 1.3)
    rows = min(rows, int((bottom - y) / pitch))
    if rows < 2 or width < 4 * style.size:
        return y
    style = dataclasses.replace(style, align=rng.choice(("left", "center", "right")))
    ruled = rng.choice(("all", "rows", "head", "none"))
    pad = 0.3 * style.size
    table = unplaced("<table>")
    for row in range(rows):
        top = y + row * pitch
        table += unplaced("<tr>")
        for cell in range(columns):
            inner = (left + cell * width + pad, width - 2 * pad)
            table += unplaced("<td>")
            table += _cell(page, style, inner, top, writer)
            table += unplaced("</td>")
        table += unplaced("</tr>")
    table += unplaced("</table>")
    end = y + rows * pitch
    _rule_table(page, (left, y, right, end), ruled, columns, rows)
    page.blocks.append(Block("table", table, (left, y, right, end)))
    return end + 0.5 * style.size


def _cell(
    page: Page, style: Style, inner: tuple[float, float], top: float, writer: Writer
) -> Script:
    """As many of a few words as a cell is wide."""
    left, width = inner
    kind = writer.rng.choice(("words", "invented", "strings"))
    words: list[str] = []
    for word in writer.text(kind, 12).split():
        line = " ".join([*words, word])
        if text_width(style.face, line) * style.size > width:
            break
        words.append(word)
    if not words:
        return []
    middle = top + (style.leading - style.size) / 2
    (script,), _ = set_lines(page, [words], style, left, middle, width)
    return script


def _rule_table(page: Page, box: Box, ruled: str, columns: int, rows: int) -> None:
    left, top, right, bottom = box
    thin = 0.8
    lines = {"all": range(rows + 1), "rows": range(rows + 1), "head": (0, 1, rows), "none": ()}
    for row in lines[ruled]:
        y = top + (bottom - top) * row / rows
        page.rules.append(Rule((left, y, right, y + thin)))
    if ruled == "all":
        for column in range(columns + 1):
            x = left + (right - left) * column / columns
            page.rules.append(Rule((x, top, x + thin, bottom)))


def set_code(
    page: Page, style: Style, column: Box, y: float, writer: Writer, faces: Sequence[Face]
) -> float:
    """Lines of code in a fixed-width face, indented; fenced in the text."""
    rng = writer.rng
    left, _, right, bottom = column
    fixed = [face for face in faces if any(part in face.path.name.lower() for part in _MONO)]
    style = dataclasses.replace(style, face=rng.choice(fixed or list(faces)), align="left")
    scripts: list[Script] = []
    begin = y
    for _ in range(rng.randint(2, 5)):
        depth = rng.choice((0, 0, 1, 2))
        x = left + depth * 4 * text_width(style.face, " ") * style.size
        words = writer.text("code", rng.choice((15, 30))).split()
        line = next(break_lines(words, style, right - x, rng), None)
        if y + style.size > bottom or line is None:
            break
        (script,), _ = set_lines(page, [line], style, x, y, right - x)
        scripts.append([*unplaced(" " * 4 * depth), *script])
        y += style.leading
    if scripts:
        code = [*unplaced("```\n"), *join(scripts, "\n"), *unplaced("\n```")]
        page.blocks.append(Block("text", code, (left, begin, right, y)))
    return y


def set_formula(page: Page, style: Style, column: Box, y: float, rng: random.Random) -> float:
    """An equation of sums, powers, indices and fractions, centred."""
    left, _, right, bottom = column
    height = 2.6 * style.size
    if y + height > bottom:
        return y
    pen = _Pen(page, style, left, y + 1.5 * style.size, rng)
    pen.term()
    pen.sign("=")
    pen.term()
    for _ in range(rng.randint(0, 2)):
        if pen.x > right - 5 * style.size:
            break
        pen.sign(rng.choice("+-"))
        pen.term()
    formula = [*unplaced("\\[ "), *pen.script, *unplaced(" \\]")]
    page.blocks.append(Block("equation", formula, (left, y, min(pen.x, right), y + height)))
    return y + height + 0.3 * style.size


class _Pen:
    """Writes a formula from left to right and keeps its LaTeX."""

    def __init__(self, page: Page, style: Style, x: float, baseline: float, rng: random.Random):
        self.page, self.style, self.rng = page, style, rng
        self.x, self.baseline = x, baseline
        self.script: Script = []

    def put(self, text: str, *, size: float = 1.0, rise: float = 0.0) -> Script:
        em = self.style.size * size
        word = Word(text, self.x, self.baseline - rise * self.style.size, self.style.face, em)
        self.x += text_width(self.style.face, text) * em
        return self.page.put(word)

    def sign(self, sign: str) -> None:
        self.x += 0.25 * self.style.size
        self.script += [*unplaced(" "), *self.put(sign), *unplaced(" ")]
        self.x += 0.25 * self.style.size

    def term(self) -> None:
        """A variable or number, bare, with a power or index, or over another."""
        kind = self.rng.random()
        if kind < 0.25:
            self._fraction()
            return
        self.script += self.put(self._symbol())
        if kind < 0.5:
            self.script += [*unplaced("^{"), *self.put(self._symbol(), size=0.65, rise=0.4)]
            self.script += unplaced("}")
        elif kind < 0.7:
            self.script += [*unplaced("_{"), *self.put(self._symbol(), size=0.65, rise=-0.2)]
            self.script += unplaced("}")

    def _fraction(self) -> None:
        start = self.x
        over = self.put(self._symbol(), rise=0.65)
        over_end, self.x = self.x, start
        under = self.put(self._symbol(), rise=-0.6)
        self.x = max(self.x, over_end)
        bar = self.baseline - 0.3 * self.style.size
        self.page.rules.append(Rule((start, bar, self.x, bar + 0.05 * self.style.size)))
        self.x += 0.1 * self.style.size
        self.script += [*unplaced("\\frac{"), *over, *unplaced("}{"), *under, *unplaced("}")]

    def _symbol(self) -> str:
        rng = self.rng
        return rng.choice(_LETTERS) if rng.random() < 0.7 else str(rng.randrange(1, 100))


def set_figure(page: Page, style: Style, column: Box, y: float, writer: Writer) -> float:
    """A box with some strokes, and often a caption below."""
    rng = writer.rng
    left, _, right, bottom = column
    width = (right - left) * rng.uniform(0.4, 1.0)
    height = min(width * rng.uniform(0.3, 0.8), (bottom - y) * 0.6)
    if height < 2 * style.size:
        return y
    x = left + (right - left - width) * rng.choice((0.0, 0.5))
    page.rules.append(Rule((x, y, x + width, y + height), filled=False))
    for _ in range(rng.randint(2, 7)):
        bar = x + rng.uniform(0.05, 0.9) * width
        top = y + rng.uniform(0.1, 0.9) * height
        page.rules.append(Rule((bar, top, bar + 0.04 * width, y + 0.95 * height)))
    page.blocks.append(Block("image", [], (x, y, x + width, y + height)))
    y += height + 0.4 * style.size
    small = dataclasses.replace(style, align="center")
    words = ["Figure", f"{rng.randint(1, 20)}:", *writer.text("prose", 40).split()]
    lines = list(break_lines(words, small, right - left, rng))[:2]
    if rng.random() < 0.3 or y + len(lines) * style.leading > bottom:
        return y
    scripts, box = set_lines(page, lines, small, left, y, right - left)
    caption = [*unplaced("<center>"), *join(scripts, "\n"), *unplaced("</center>")]
    page.blocks.append(Block("image_caption", caption, box))
    return box[3] + 0.5 * style.size


def set_furniture(page: Page, style: Style, column: Box, writer: Writer) -> None:
    """A running header or a page number in the margin; part of the text, as on the page."""
    rng = writer.rng
    left, top, right, bottom = column
    words = [str(rng.randint(1, 400))]
    label = "page_number"
    if rng.random() < 0.5:
        words, label = writer.text("words", 20).split(), "header"
    above = label == "header" or rng.random() < 0.2
    y = top - 1.6 * style.size if above else bottom + 0.5 * style.size
    line = next(break_lines(words, style, right - left, rng))
    if y < 0 or y + style.size > page.height:
        return
    align = dataclasses.replace(style, align=rng.choice(("left", "center", "right")))
    (script,), box = set_lines(page, [line], align, left, y, right - left)
    block = Block(label, script, box)
    if above:
        page.blocks.insert(0, block)
    else:
        page.blocks.append(block)
