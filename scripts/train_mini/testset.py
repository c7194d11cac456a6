"""Pages to evaluate on: held-out text, in held-out and in training faces, by density and content.

Every group of pages is one PDF. A group's random generator is seeded by its name and the mode's,
so that the same packages and faces give the same pages.
"""

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from docr.modes.mode import NO_TILES, Mode
from scripts.train_mini.fonts import Face
from scripts.train_mini.layout import Page, script_text
from scripts.train_mini.pages import SHAPES, PageMaker, PagePlan
from scripts.train_mini.paint import write_pdf
from scripts.train_mini.score import collapse
from scripts.train_mini.text import Writer

SEED = "docr mini evaluation 1"

DENSITIES = ((1, 2), (2, 3), (3, 4), (4, 6), (6, 8), (8, 12))
"""Characters on the page per vision token, from and below."""

MIXED = "mixed"
CONTENTS = ("prose", "shuffled", "invented", "strings")
"""What a page of one content says: held-out sentences, their words shuffled, invented words,
random strings. The less a language model could guess, the further down."""

LARGE_EM_PX = (26.0, 44.0)
LARGE_PITCH_PX = 36.0
LARGE_DENSITIES = ((2, 3), (3, 4))
"""More characters of this size do not fit on a page of tiny."""

EM_OF_CELL = (0.55, 0.95)
"""Type sizes that are tried for a density, as shares of the side of a square that has the area a
character has at that density."""

_TRIES_A_PAGE = 500
_SHUFFLED_CHARACTERS = 400
"""Words of so much prose at least are shuffled together."""


@dataclass(frozen=True, slots=True)
class Group:
    """A kind of pages.

    Attributes:
        name: also the PDF's, without suffix.
        table: which table it belongs to: density, large or content.
        held_out_faces: whether its faces are those that training never saw.
        content: MIXED, as in training, or one of CONTENTS.
        density: characters per vision token, from and below.
        pages: how many.
    """

    name: str
    table: str
    held_out_faces: bool
    content: str
    density: tuple[int, int]
    pages: int


@dataclass(frozen=True, slots=True)
class EvalPage:
    """A page of a group.

    Attributes:
        truth: its Markdown, as the model was trained to write it.
        shape: width and height in points.
        em_px: median size of its type in the view, by the smaller scale.
    """

    truth: str
    shape: tuple[float, float]
    em_px: float

    @property
    def characters(self) -> int:
        """Of the truth, white space collapsed."""
        return len(collapse(self.truth))


class ContentWriter(Writer):
    """Writes one content only, whatever kind is asked for."""

    def __init__(self, rng: random.Random, content: str) -> None:
        super().__init__(rng, held_out=True)
        self.content = content

    def kind(self) -> str:
        return self.content

    def text(self, kind: str, length: int) -> str:
        if self.content != "shuffled":
            return super().text(self.content, length)
        words = super().text("prose", max(length, _SHUFFLED_CHARACTERS)).split()
        self.rng.shuffle(words)
        while len(words) > 1 and len(" ".join(words)) > length:
            words.pop()
        return " ".join(words)


LARGE_PAGES = 10
"""At least, of each group of large type."""


def all_groups(*, quick: bool) -> list[Group]:
    """The groups of a full evaluation, or of one of about 90 pages."""
    held_out, training, content = (2, 2, 2) if quick else (24, 12, 8)
    groups = []
    for is_held_out, count in ((True, held_out), (False, training)):
        side = "held-out" if is_held_out else "training"
        for density in DENSITIES:
            name = f"density-{side}-{density[0]}-{density[1]}"
            groups.append(Group(name, "density", is_held_out, MIXED, density, count))
        for density in LARGE_DENSITIES:
            name = f"large-{side}-{density[0]}-{density[1]}"
            # What the model is for: enough pages of it in a quick evaluation, too.
            pages = max(count, LARGE_PAGES)
            groups.append(Group(name, "large", is_held_out, MIXED, density, pages))
    for kind in CONTENTS:
        for density in DENSITIES[::2] if quick else DENSITIES:
            name = f"content-{kind}-{density[0]}-{density[1]}"
            groups.append(Group(name, "content", True, kind, density, content))
    return groups


def make_group(group: Group, mode: Mode, faces: Sequence[Face], path: Path) -> list[EvalPage]:
    """Write a group's PDF; returns its pages in order.

    Raises:
        RuntimeError: hardly any page comes out as the group wants it.
    """
    rng = random.Random(f"{SEED} {group.name} {mode.name}")
    maker = PageMaker(faces, rng, held_out=True)
    if group.content != MIXED:
        maker.writer = ContentWriter(rng, group.content)
    tokens = mode.paper_tokens(NO_TILES)
    pages: list[Page] = []
    kept: list[EvalPage] = []
    for _ in range(group.pages * _TRIES_A_PAGE):
        plan = _plan(group, mode, rng)
        page = maker.make(plan)
        eval_page = _eval_page(page, plan)
        if group.density[0] <= eval_page.characters / tokens < group.density[1]:
            pages.append(page)
            kept.append(eval_page)
        if len(kept) == group.pages:
            path.write_bytes(write_pdf(pages))
            return kept
    raise RuntimeError(f"{group.name}: {len(kept)} of {group.pages} pages in {mode.name}")


def _plan(group: Group, mode: Mode, rng: random.Random) -> PagePlan:
    """A page that may come out as the group wants it."""
    width, height = rng.choice(SHAPES)
    side = mode.base_px
    scale = (side / width, side / height) if mode.stretches else (side / max(width, height),) * 2
    fill = rng.choice((1.0, 1.0, rng.uniform(0.4, 1.0)))
    if group.table == "large":
        return PagePlan(width, height, scale, LARGE_EM_PX, LARGE_PITCH_PX, fill)
    middle = sum(group.density) / 2
    cell = math.sqrt(side * side / (middle * mode.paper_tokens(NO_TILES)))
    em_px = (EM_OF_CELL[0] * cell, EM_OF_CELL[1] * cell)
    return PagePlan(width, height, scale, em_px, min_pitch_px=0.0, fill=fill)


def _eval_page(page: Page, plan: PagePlan) -> EvalPage:
    sizes = [word.size for word in page.words]
    em_px = statistics.median(sizes) * min(plan.scale) if sizes else 0.0
    return EvalPage(script_text(page.plain()), (page.width, page.height), em_px)


def write_blank_pages(path: Path) -> dict[tuple[float, float], int]:
    """A PDF with a blank page of every shape that pages have.

    docr does not ask the model about a page it can tell to be blank. These have a text layer that
    is not drawn, so they are asked about, and every pixel is white.

    Returns:
        Index of the page, by its shape.
    """
    import pymupdf

    document = pymupdf.open()
    for width, height in SHAPES:
        sheet = document.new_page(width=width, height=height)
        sheet.insert_text((width / 2, height / 2), "blank", render_mode=3)
    path.write_bytes(document.tobytes())
    return {(float(width), float(height)): index for index, (width, height) in enumerate(SHAPES)}
