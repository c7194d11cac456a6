"""Lines, paragraphs, rules and tables on a page of a PDF; coordinates are points, y down."""

from collections.abc import Sequence

import pymupdf

WIDTH, HEIGHT = 595, 842  # A4; the leaflet is A5
MARGIN = 56
INK, GREY, RULE, SHADE = (0.1, 0.1, 0.12), (0.42, 0.42, 0.45), (0.7, 0.7, 0.72), (0.93, 0.94, 0.96)
SERIF, SERIF_BOLD, SERIF_ITALIC = "tiro", "tibo", "tiit"
SANS, SANS_BOLD, MONO, SYMBOL = "helv", "hebo", "cour", "symb"

Color = tuple[float, float, float]
LEFT, RIGHT = pymupdf.TEXT_ALIGN_LEFT, pymupdf.TEXT_ALIGN_RIGHT
CENTER, JUSTIFY = pymupdf.TEXT_ALIGN_CENTER, pymupdf.TEXT_ALIGN_JUSTIFY


def line(
    page: pymupdf.Page,
    x: float,
    y: float,
    text: str,
    *,
    font: str = SERIF,
    size: float = 10.5,
    align: int = LEFT,
    color: Color = INK,
) -> float:
    """Set one line with its baseline at `y` against `x`; returns its width."""
    width = pymupdf.get_text_length(text, fontname=font, fontsize=size)
    start = x - {LEFT: 0.0, CENTER: width / 2, RIGHT: width}[align]
    page.insert_text((start, y), text, fontname=font, fontsize=size, color=color)
    return float(width)


def paragraph(
    page: pymupdf.Page,
    x: float,
    y: float,
    width: float,
    text: str,
    *,
    font: str = SERIF,
    size: float = 11.5,
    leading: float = 1.32,
    align: int = JUSTIFY,
) -> float:
    """Set a paragraph in a column from its top `y`; returns the y below it."""
    room = page.rect.height - 40 - y
    spare = page.insert_textbox(
        pymupdf.Rect(x, y, x + width, y + room),
        " ".join(text.split()),
        fontname=font,
        fontsize=size,
        lineheight=leading,
        align=align,
        color=INK,
    )
    assert spare >= 0, f"text does not fit the page by {-spare:.0f} pt: {text[:40]!r}"
    return float(y + room - spare)


def rule(
    page: pymupdf.Page,
    y: float,
    *,
    x0: float = MARGIN,
    x1: float | None = None,
    width: float = 0.6,
    color: Color = RULE,
) -> None:
    """Draw a horizontal line, by default from margin to margin."""
    end = page.rect.width - MARGIN if x1 is None else x1
    page.draw_line((x0, y), (end, y), color=color, width=width)


def table(
    page: pymupdf.Page,
    y: float,
    columns: Sequence[tuple[float, int]],
    rows: Sequence[Sequence[str]],
    *,
    row_height: float = 20,
    size: float = 9.5,
) -> float:
    """Draw a ruled table, first row as its head; `columns` are (x, alignment). Returns its end."""
    page.draw_rect(
        pymupdf.Rect(MARGIN, y, page.rect.width - MARGIN, y + row_height), color=None, fill=SHADE
    )
    for number, row in enumerate(rows):
        font = SANS if number else SANS_BOLD
        for (x, align), text in zip(columns, row, strict=True):
            line(page, x, y + row_height * 0.66, text, font=font, size=size, align=align)
        y += row_height
        rule(page, y)
    return y
