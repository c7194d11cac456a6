"""The nouns that cross rooms. Frozen; standard library and numpy only, never torch.

Arrays: u8 is numpy.uint8, i64 numpy.int64. Images are RGB, rows first: [H, W, 3] or, for the
model, channels first [3, S, S]. Grids are (columns, rows). Boxes are (x0, y0, x1, y1).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from docr.errors import FailureCode

U8 = NDArray[np.uint8]
Grid = tuple[int, int]  # (columns, rows) of local tiles; (1, 1): none
Affine = tuple[float, float, float, float, float, float]
"""(a, b, c, d, e, f): x' = a x + c y + e, y' = b x + d y + f."""

FinishReason = Literal["stop", "length", "repetition"]


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A document as it was found.

    Attributes:
        path: where to open it (absolute).
        root: the directory it was found under (absolute); the parent of a file that was named
            itself, and the working directory, or else "/", for one that a list names.
        relative: path below `root` with "/" between components, undecodable bytes as surrogates.
        named: whether the command line (or --files-from) named this very file.
    """

    path: Path
    root: Path
    relative: str
    named: bool = False


@dataclass(frozen=True, slots=True)
class PageRef:
    """One page of one document; the unit that is handed out, retried and resumed."""

    path: Path
    index: int  # 0-based

    @property
    def number(self) -> int:
        """The page's 1-based number, as people and file names count."""
        return self.index + 1


@dataclass(frozen=True, slots=True, eq=False)
class PageImage:
    """A rendered page.

    Attributes:
        pixels: u8 [H, W, 3], upright as a reader sees the page (rotation applied).
        dpi: pixels per 72 points; 0 for a page image, which has no points.
        page_pt: (width, height) of the visible page in points; (0, 0) for a page image.
        rotation: the page's /Rotate, already applied: 0, 90, 180 or 270 degrees.
        px_to_pt: maps pixels to the PDF's own user space (y up, crop box and rotation undone);
            None for a page image.
        text: of the page's text layer, in the file's order; empty for one without. Not to be
            trusted: it may say something else than the page shows.
        rendered_by: engine and version, such as "mupdf 1.28.5", "pdfium 5.15" or "pillow 13.0".
        warnings: what the rendering engine complained about, one line each.
    """

    ref: PageRef
    pixels: U8
    dpi: float
    page_pt: tuple[float, float]
    rotation: int
    px_to_pt: Affine | None
    text: str
    rendered_by: str
    warnings: tuple[str, ...] = ()

    @property
    def has_text(self) -> bool:
        """Whether the page's text layer holds any visible character."""
        return any(c.isprintable() and not c.isspace() for c in self.text)


@dataclass(frozen=True, slots=True, eq=False)
class PageViews:
    """The pixel part of the model's input: one global view and, in tiled modes, local tiles.

    Attributes:
        image_size: (width, height) of the page image in pixels.
        global_view: u8 [3, B, B].
        tiles: u8 [n, 3, T, T], row-major over the grid; n = 0 where there are none.
        grid: (columns, rows); (1, 1) where there are no tiles.
    """

    image_size: tuple[int, int]
    global_view: U8
    tiles: U8
    grid: Grid


@dataclass(frozen=True, slots=True, eq=False)
class PageInputs:
    """All that the engine needs of a page.

    Attributes:
        views: the pixels.
        input_ids: i64 [S]: BOS, text and image placeholders.
        image_mask: bool [S]: where vision tokens are written over placeholders.
        layer_ids: i64 [L], of the page's text layer: guesses at what the model will write.
    """

    ref: PageRef
    views: PageViews
    input_ids: NDArray[np.int64]
    image_mask: NDArray[np.bool_]
    layer_ids: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))


@dataclass(frozen=True, slots=True)
class Completion:
    """What the model wrote for a page.

    Attributes:
        token_ids: all generated ids, uncut; the end-of-sequence id is last where it was reached.
        text: decoded, special tokens kept, without end of sequence; cut at the first repetition
            when `finish_reason` is "repetition".
        mean_logprob, min_logprob: natural logarithms of the chosen tokens' probabilities.
        seconds: by stage ("vision", "prefill", "decode"); a batch's time is shared equally among
            its pages.
        drafted, accepted: tokens that were guessed beforehand, and how many of them came true.
    """

    ref: PageRef
    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason
    mean_logprob: float
    min_logprob: float
    seconds: dict[str, float] = field(default_factory=dict)
    drafted: int = 0
    accepted: int = 0


@dataclass(frozen=True, slots=True)
class PageFailure:
    """A page without a result, and why."""

    ref: PageRef
    stage: Literal["open", "render", "prepare", "generate", "parse", "write"]
    code: FailureCode
    message: str
    rendered_by: str | None = None


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle on the page, (x0, y0, x1, y1), in three units.

    Attributes:
        norm: integers 0..999 of the page image's width and height, as the model writes them.
        px: pixels of the rendered page.
        pt: the PDF's user space, points, y up; None for page images.
    """

    norm: tuple[int, int, int, int]
    px: tuple[int, int, int, int]
    pt: tuple[float, float, float, float] | None


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of the page's layout: a label such as "title", its boxes and its text."""

    label: str
    boxes: tuple[Box, ...]
    text: str
    figure: str | None = None  # file name below the page's folder, where one was cropped


@dataclass(frozen=True, slots=True)
class ParsedPage:
    """The model's text, understood.

    Attributes:
        figures: (file name such as "figures/page-0001-1.png", box in pixels) to crop and save.
    """

    markdown: str
    blocks: tuple[Block, ...]
    figures: tuple[tuple[str, tuple[int, int, int, int]], ...]
