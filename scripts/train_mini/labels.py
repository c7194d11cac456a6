"""What each patch and each vision token of a view should contain, from the glyphs' places.

Two sets of labels: the character that covers the middle of a patch, and for each vision token the
characters in it, in order: its height is cut into `bands`, and a band holds its first `depth`
characters from left to right, spaces counted. A character without a place in that is not in it.
Of each band also the number of its line in the text and of its first character in that line: the
decoder knows both of what it has written, so it can find where to go on without knowing the text.

The ideal token is a fixed code of those characters and numbers and of the token's place in the
grid. The decoder learns to read ideal tokens before it sees pixels; the encoder learns to make
them.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from docr.modes.mode import TOKEN_PX
from scripts.train_mini.fonts import ALPHABET
from scripts.train_mini.layout import NO_GLYPH, Glyph, Page, Script

I16 = npt.NDArray[np.int16]

PATCH_PX = 16
BODY = 0.7
"""Of the em: the height of a letter's box around its line's middle."""

CLASSES = "\0 " + ALPHABET
"""Characters by class; class 0: nothing there."""
NUM_CLASSES = len(CLASSES)
_CLASS_OF = {character: index for index, character in enumerate(CLASSES)}

NUM_LINES, NUM_COLUMNS = 24, 72
"""Lines, and characters of a line, that are told apart; later ones count as the last."""

POSITION_DIMS = 16
COUNT_DIMS = 10
_MAX_SIDE = 20


@dataclass(frozen=True, slots=True)
class Slots:
    """How many characters a vision token has room for.

    Attributes:
        bands: equal parts of its height; a line of text falls into one.
        depth: characters a band.
    """

    bands: int
    depth: int

    @property
    def count(self) -> int:
        """Slots of a token."""
        return self.bands * self.depth


@dataclass(frozen=True, slots=True, eq=False)
class ViewLabels:
    """Labels of one view of `rows` x `columns` vision tokens.

    Attributes:
        patches: [4*rows,4*columns] classes.
        slots: [rows,columns,count] classes.
        counts: [rows,columns,bands,2]: the line of each band and where in it the band begins, see
            count_lines; -1 where it is empty.
        place: [glyphs,2] of every glyph of the page: its token (row by row) and its slot there;
            -1 where it has none.
    """

    patches: I16
    slots: I16
    counts: I16
    place: npt.NDArray[np.int64]


def label_view(
    page: Page,
    script: Script,
    scale: tuple[float, float],
    rows: int,
    columns: int,
    slots: Slots,
    *,
    turn: float = 0.0,
) -> ViewLabels:
    """Label a view that shows a whole page.

    Args:
        page: with its glyphs in points.
        script: the text to write of it.
        scale: view pixels a point, across and down.
        rows, columns: of vision tokens.
        slots: of each token.
        turn: of the painted page, in degrees anticlockwise.
    """
    patches = np.zeros((4 * rows, 4 * columns), np.int16)
    cells = np.zeros((rows, columns, slots.count), np.int16)
    counts = np.full((rows, columns, slots.bands, 2), -1, np.int16)
    lines = dict(zip((glyph for _, glyph in script), count_lines(script), strict=True))
    place = np.full((len(page.glyphs), 2), -1, np.int64)
    filled = np.zeros((rows, columns, slots.bands), np.int64)
    spots = [_spot(page, glyph, scale, turn) for glyph in page.glyphs]
    # Left to right, so that the first characters of a band come first whatever was set first.
    for index in sorted(range(len(spots)), key=lambda index: spots[index][0]):
        (x, y), character = spots[index], page.glyphs[index].character
        if not (0 <= x < columns * TOKEN_PX and 0 <= y < rows * TOKEN_PX):
            continue
        kind = _CLASS_OF.get(character, 0)
        if character != " ":
            _cover(patches, page.glyphs[index], spots[index], scale, kind)
        row, column = int(y) // TOKEN_PX, int(x) // TOKEN_PX
        band = int((y - row * TOKEN_PX) * slots.bands / TOKEN_PX)
        depth = filled[row, column, band]
        if depth < slots.depth:
            filled[row, column, band] += 1
            slot = band * slots.depth + depth
            cells[row, column, slot] = kind
            place[index] = row * columns + column, slot
            if counts[row, column, band, 0] < 0 and index in lines:
                counts[row, column, band] = lines[index]
    return ViewLabels(patches, cells, counts, place)


def count_lines(script: Script) -> I16:
    """[characters,2]: the number of each character's line that is not empty, and its own in that.

    What ends a line belongs to it, blank lines too.
    """
    numbers = np.zeros((len(script), 2), np.int16)
    line = column = 0
    for index, (character, _) in enumerate(script):
        if character != "\n" and index and script[index - 1][0] == "\n":
            line, column = line + 1, 0
        numbers[index] = min(line, NUM_LINES - 1), min(column, NUM_COLUMNS - 1)
        column += 1
    return numbers


def _spot(page: Page, glyph: Glyph, scale: tuple[float, float], turn: float) -> tuple[float, float]:
    """Where a glyph's middle lies in the view, in pixels."""
    angle = math.radians(turn)
    x, y = glyph.x - page.width / 2, glyph.y - page.height / 2
    turned = (x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle))
    return (turned[0] + page.width / 2) * scale[0], (turned[1] + page.height / 2) * scale[1]


def _cover(
    patches: I16,
    glyph: Glyph,
    spot: tuple[float, float],
    scale: tuple[float, float],
    kind: int,
) -> None:
    """Label the patches whose middles lie in a glyph's box."""
    x, y = spot
    across, down = glyph.width * scale[0] / 2, BODY * glyph.size * scale[1] / 2
    first, last = (round(edge / PATCH_PX) for edge in (x - across, x + across))
    top, bottom = (round(edge / PATCH_PX) for edge in (y - down, y + down))
    # Thin letters may miss every middle: theirs is the patch that they stand in.
    last, bottom = max(last, first + 1), max(bottom, top + 1)
    patches[max(0, top) : bottom, max(0, first) : last] = kind


def script_places(script: Script, labels: ViewLabels) -> npt.NDArray[np.int64]:
    """[characters,2]: token and slot of each character of a script, -1 where it has none."""
    nowhere = np.full(2, -1, np.int64)
    rows = [nowhere if glyph == NO_GLYPH else labels.place[glyph] for _, glyph in script]
    return np.stack(rows) if rows else np.empty((0, 2), np.int64)


class IdealCode:
    """Codes of vision tokens: each slot has its own subspace, and so have places and counts.

    Args:
        dim: of a token.
        slots: of a token.
        seed: of the code; the decoder and the encoder must be given the same.
    """

    def __init__(self, dim: int, slots: Slots, seed: int = 20) -> None:
        generator = torch.Generator().manual_seed(seed)
        width = (dim - POSITION_DIMS - 2 * COUNT_DIMS * slots.bands) // slots.count
        assert width >= 4, (dim, slots)
        rotation = torch.linalg.qr(torch.randn(dim, dim, generator=generator)).Q
        characters = torch.randn(NUM_CLASSES, width, generator=generator)
        characters = characters / characters.norm(dim=1, keepdim=True)
        characters[0] = 0  # an empty slot adds nothing
        glyphs = torch.zeros(slots.count, NUM_CLASSES, dim)
        lines = torch.zeros(slots.bands, NUM_LINES + 1, dim)
        columns = torch.zeros(slots.bands, NUM_COLUMNS + 1, dim)
        axes = iter(rotation[POSITION_DIMS:])
        for band in range(slots.bands):
            for slot in range(band * slots.depth, (band + 1) * slots.depth):
                glyphs[slot] = characters @ take(axes, width)
            # The last row stays 0: -1, an empty band.
            lines[band, :-1] = waves(NUM_LINES, (2.0, 1.1, 0.6, 0.3, 0.15)) @ take(axes, COUNT_DIMS)
            columns[band, :-1] = waves(NUM_COLUMNS, (1.0, 0.5, 0.25, 0.12, 0.06)) @ take(
                axes, COUNT_DIMS
            )
        # Longer than a character's code of length 1 would be easier to find, and drown it.
        self.glyphs = glyphs.flatten(0, 1) * 3.0  # [slots * classes, dim]
        self.offsets = torch.arange(slots.count) * NUM_CLASSES
        self.lines, self.line_starts = lines * 1.5, columns * 1.5  # [bands, numbers, dim]
        table = waves(_MAX_SIDE, (2.0, 1.0, 0.5, 0.24))  # [side, 8]
        self.rows = table @ rotation[:8] * 1.5
        self.columns = table @ rotation[8:16] * 1.5

    def to(self, device: torch.device) -> None:
        """Move the tables."""
        for name in ("glyphs", "offsets", "lines", "line_starts", "rows", "columns"):
            setattr(self, name, getattr(self, name).to(device))

    def encode(self, slots: Tensor, counts: Tensor) -> Tensor:
        """Ideal tokens [...,rows,columns,dim].

        Args:
            slots: classes i64 [...,rows,columns,slots].
            counts: i64 [...,rows,columns,bands,2], as in ViewLabels.
        """
        rows, columns = slots.shape[-3:-1]
        tokens = self.glyphs[slots + self.offsets].sum(-2)
        for band in range(counts.shape[-2]):
            line, start = counts[..., band, :].unbind(-1)
            tokens = tokens + self.lines[band, line] + self.line_starts[band, start]
        return tokens + self.rows[:rows, None] + self.columns[None, :columns]


def waves(count: int, frequencies: tuple[float, ...]) -> Tensor:
    """[count, 2 * frequencies]: sines and cosines of the numbers from 0."""
    angles = torch.arange(count, dtype=torch.float32)[:, None] * torch.tensor(frequencies)
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


def take(axes: Iterator[Tensor], count: int) -> Tensor:
    """[count, dim]: the next axes."""
    return torch.stack([next(axes) for _ in range(count)])
