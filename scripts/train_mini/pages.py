"""Whole pages of every kind and density, from one random generator.

The recipe says which kinds are drawn and how large the type is in the view that the model sees.
"""

import dataclasses
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from scripts.train_mini.blocks import (
    set_code,
    set_figure,
    set_formula,
    set_furniture,
    set_table,
)
from scripts.train_mini.fonts import Face
from scripts.train_mini.layout import (
    Block,
    Box,
    Page,
    Script,
    Style,
    break_lines,
    join,
    set_lines,
    text_width,
    unplaced,
)
from scripts.train_mini.text import Writer

SHAPES = ((595, 842), (842, 595), (612, 792), (720, 540), (960, 540), (600, 600), (420, 595))
"""Pages in points: A4, letter, slides, a square, A5."""


BLOCKS = {"sub_title": 0.12, "list": 0.18, "paragraph": 0.70}
"""Shares of a page's blocks. Known besides: table, code, formula, figure."""

TITLED = {False: 0.5, True: 0.1}
"""Share of the pages, dense or not, that begin with a title."""

DENSE = {"sub_title": 0.05, "paragraph": 0.95}
"""Shares for pages as full as they get."""


@dataclass(frozen=True, slots=True)
class PagePlan:
    """What kind of page is wanted.

    Attributes:
        width, height: of the page in points.
        scale: view pixels a point, across and down.
        em_px: smallest and largest size of the running text, in view pixels, by the smaller scale.
        min_pitch_px: least distance of lines in the view.
        fill: share of the page's height that is filled.
        columns: of the text, side by side.
        furniture: whether there is a header or a page number.
        dense: whether it is filled with long paragraphs instead of blocks of all kinds.
    """

    width: float
    height: float
    scale: tuple[float, float]
    em_px: tuple[float, float]
    min_pitch_px: float
    fill: float = 1.0
    columns: int = 1
    furniture: bool = False
    dense: bool = False


def stretched_plan(
    rng: random.Random,
    view_px: int,
    em_px: tuple[float, float],
    min_pitch_px: float,
    *,
    two_columns: float = 0.0,
    furniture: float = 0.0,
    dense: float = 0.0,
) -> PagePlan:
    """A page of a usual shape, stretched over a square view; shares of pages as in the recipe."""
    width, height = rng.choice(SHAPES)
    return PagePlan(
        width,
        height,
        (view_px / width, view_px / height),
        em_px,
        min_pitch_px,
        fill=rng.choice((1.0,) * 5 + (rng.uniform(0.15, 1.0),)),
        columns=2 if rng.random() < two_columns else 1,
        furniture=rng.random() < furniture,
        dense=rng.random() < dense,
    )


class PageMaker:
    """Sets pages of random content.

    Args:
        faces: to choose from.
        rng: of everything.
        held_out: say what training pages never say.
        blocks: shares of the kinds of blocks; see BLOCKS.
    """

    def __init__(
        self,
        faces: Sequence[Face],
        rng: random.Random,
        *,
        held_out: bool = False,
        blocks: Mapping[str, float] = BLOCKS,
    ) -> None:
        self.faces = faces
        self.rng = rng
        self.writer = Writer(rng, held_out=held_out)
        self.blocks = blocks

    def make(self, plan: PagePlan) -> Page:
        """Set a page from top to bottom, column by column."""
        rng = self.rng
        page = Page(plan.width, plan.height)
        face = rng.choice(self.faces)
        low, high = plan.em_px
        size = low * (high / low) ** rng.random() / min(plan.scale)
        pitch = max(size * rng.uniform(1.12, 1.7), plan.min_pitch_px / plan.scale[1])
        align = rng.choices(("left", "justify", "center", "right"), (6, 2, 2, 0.5))[0]
        style = Style(face, size, pitch, align, hyphenate=rng.choice((0.0, 0.0, 0.6)))
        area = self._area(plan, size)
        kind = self.writer.kind() if rng.random() < 0.5 else None
        mixed_faces = rng.random() < 0.5
        top = area[1]
        if rng.random() < TITLED[plan.dense]:
            top = self._heading(page, plan, style, area, top, "title")
        for column in _columns((area[0], top, *area[2:]), plan):
            self._fill(page, plan, style, column, kind, mixed_faces)
        if plan.furniture:
            set_furniture(page, style, area, self.writer)
        return page

    def _fill(
        self,
        page: Page,
        plan: PagePlan,
        style: Style,
        column: Box,
        kind: str | None,
        mixed_faces: bool,
    ) -> None:
        """Set blocks into a column until it is full; of one kind of text, or of any (None)."""
        rng = self.rng
        y, bottom = column[1], column[1] + (column[3] - column[1]) * plan.fill
        while y + style.size <= bottom:
            if mixed_faces:
                style = dataclasses.replace(style, face=rng.choice(self.faces))
            says = kind or self.writer.kind()
            below = self._block(page, plan, style, column, y, says)
            if plan.dense:
                y = max(below, y) + 0.2 * style.size
                continue
            gap = rng.choice((0.2, 0.5, 0.9)) * style.size + rng.choice((0, 0, 0, style.leading))
            y = max(below, y) + gap

    def _block(
        self, page: Page, plan: PagePlan, style: Style, column: Box, y: float, kind: str
    ) -> float:
        blocks = DENSE if plan.dense else self.blocks
        match self.rng.choices(list(blocks), list(blocks.values()))[0]:
            case "sub_title":
                return self._heading(page, plan, style, column, y, "sub_title")
            case "list":
                return self._list(page, plan, style, column, y, kind)
            case "table":
                return set_table(page, style, column, y, self.writer)
            case "code":
                return set_code(page, style, column, y, self.writer, self.faces)
            case "formula":
                return set_formula(page, style, column, y, self.rng)
            case "figure":
                return set_figure(page, style, column, y, self.writer)
            case _:
                return self._paragraph(page, plan, style, column, y, kind)

    def _area(self, plan: PagePlan, size: float) -> Box:
        """The area of the text, with margins as wide as people leave them."""
        rng = self.rng
        left, right = (rng.uniform(0.03, 0.12) * plan.width for _ in range(2))
        if plan.width - left - right < 4 * size:
            left = right = 0.02 * plan.width
        top, bottom = (rng.uniform(0.03, 0.12) * plan.height for _ in range(2))
        return (left, top, plan.width - right, plan.height - bottom)

    def _heading(
        self, page: Page, plan: PagePlan, body: Style, column: Box, y: float, label: str
    ) -> float:
        rng = self.rng
        size = body.size * (rng.uniform(1.25, 1.8) if label == "title" else rng.uniform(1.1, 1.3))
        face = rng.choice((body.face, rng.choice(self.faces)))
        pitch = max(size * 1.2, plan.min_pitch_px / plan.scale[1])
        align = rng.choice((body.align, "left", "center"))
        style = Style(face, size, pitch, "left" if align == "justify" else align)
        text = self.writer.text(rng.choice(("prose", "words", "invented")), rng.randint(4, 30))
        scripts, box = self._fit(page, text.split(), style, column, y, most=2)
        if scripts:
            mark = "# " if label == "title" else "## "
            script = unplaced(mark) + join(scripts, " ")
            page.blocks.append(Block(label, script, box))
        return box[3] + rng.uniform(0.3, 0.9) * size

    def _paragraph(
        self, page: Page, plan: PagePlan, style: Style, column: Box, y: float, kind: str
    ) -> float:
        length = 400 if plan.dense else self.rng.choice((40, 150, 400))
        words = self.writer.text(kind, length).split()
        scripts, box = self._fit(page, words, style, column, y)
        if scripts:
            page.blocks.append(Block("text", join(scripts, "\n"), box))
        return box[3] + style.leading - style.size

    def _list(
        self, page: Page, plan: PagePlan, style: Style, column: Box, y: float, kind: str
    ) -> float:
        """Items with a bullet, a dash or numbers."""
        rng = self.rng
        mark = rng.choice(("•", "•", "-", "1.", "1)"))
        style = Style(style.face, style.size, style.leading, "left")
        indent = text_width(style.face, "1.0" if mark[0] == "1" else "• ") * style.size * 1.15
        left, top, right, bottom = column
        if right - left < indent + 4 * style.size:
            return self._paragraph(page, plan, style, column, y, kind)
        items: list[Script] = []
        covered = (left, y, right, y)
        for number in range(1, rng.randint(2, 6)):
            shown = mark.replace("1", str(number))
            text = self.writer.text(kind, rng.choice((8, 16, 40))).split()
            if y + style.size > bottom:
                break
            (sign,), _ = set_lines(page, [[shown]], style, left, y, indent)
            written = unplaced("-") if shown in ("•", "-") else sign
            if shown in ("•", "-"):
                written = [("-", sign[0][1])]
            scripts, box = self._fit(page, text, style, (left + indent, top, right, bottom), y)
            items.append([*written, *unplaced(" "), *join(scripts, "\n")])
            y = box[3] + style.leading - style.size
            covered = (left, covered[1], right, box[3])
        if items:
            page.blocks.append(Block("text", join(items, "\n"), covered))
        return y

    def _fit(
        self,
        page: Page,
        words: Sequence[str],
        style: Style,
        column: Box,
        y: float,
        most: int = 1000,
    ) -> tuple[list[Script], Box]:
        """Set as many lines as the column has room for, `most` at most."""
        left, _, right, bottom = column
        room = int((bottom - y - style.size) / style.leading) + 1
        lines = list(break_lines(words, style, right - left, self.rng))[: max(0, min(room, most))]
        if not lines:
            return [], (left, y, right, y)
        return set_lines(page, lines, style, left, y, right - left)


def _columns(area: Box, plan: PagePlan) -> Iterator[Box]:
    """The area cut into columns with a gutter between them."""
    left, top, right, bottom = area
    gutter = 0.04 * plan.width
    width = (right - left - gutter * (plan.columns - 1)) / plan.columns
    for number in range(plan.columns):
        x = left + number * (width + gutter)
        yield (x, top, x + width, bottom)
