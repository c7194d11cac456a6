"""Make the documents of examples/, the same bytes on every run.

    python scripts/make_examples.py [FOLDER]      (default: examples)

All text is our own; what runs longer than a line stands in examples_prose.py. Only the fonts that
every PDF reader has are used, so the text stays within Latin-1 (the Symbol font gives the Greek
letters).
"""

import io
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pymupdf
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.examples_drawing import (
    CENTER,
    GREY,
    HEIGHT,
    INK,
    LEFT,
    MARGIN,
    MONO,
    RIGHT,
    SANS,
    SANS_BOLD,
    SERIF,
    SERIF_BOLD,
    SERIF_ITALIC,
    SYMBOL,
    WIDTH,
    line,
    paragraph,
    rule,
    table,
)
from scripts.examples_prose import (
    ARTICLE_LEFT,
    ARTICLE_RIGHT,
    LEAFLET,
    LETTER,
    NOTICE,
    SLIDE,
    TITLE_SLIDE,
)


def invoice(document: pymupdf.Document) -> None:
    """An invoice: letterhead, two address blocks, a table with totals, a note."""
    page, right = document.new_page(width=WIDTH, height=HEIGHT), WIDTH - MARGIN
    line(page, MARGIN, 84, "Lindqvist Bookbinding", font=SANS_BOLD, size=17)
    line(page, MARGIN, 101, "Repairs, boxes and small editions", font=SANS, size=9, color=GREY)
    line(page, right, 84, "INVOICE", font=SANS_BOLD, size=17, align=RIGHT, color=GREY)
    rule(page, 116, width=1.2, color=INK)
    address = ("Billed to", "Harbour Street Library", "12 Harbour Street", "Port Ellery")
    for number, text in enumerate(address):
        font = SANS if number else SANS_BOLD
        line(page, MARGIN, 146 + 14 * number, text, font=font, size=9.5)
    details = {
        "Invoice number": "2041",
        "Date": "3 March 2025",
        "Due": "2 April 2025",
        "Your order": "HSL-118",
    }
    for number, (name, value) in enumerate(details.items()):
        line(page, 380, 146 + 14 * number, name, font=SANS, size=9.5, color=GREY)
        line(page, right, 146 + 14 * number, value, font=SANS, size=9.5, align=RIGHT)
    columns = [(MARGIN + 6, LEFT), (350, RIGHT), (440, RIGHT), (right - 6, RIGHT)]
    rows = [
        ("Description", "Quantity", "Unit price", "Amount"),
        ("New spine in half leather", "4", "62.00", "248.00"),
        ("Clamshell box, A4, grey linen", "10", "38.50", "385.00"),
        ("Paper repair, per hour", "6.5", "44.00", "286.00"),
        ("Gold tooling, per line of title", "18", "5.25", "94.50"),
        ("Insured delivery", "1", "24.00", "24.00"),
    ]
    y = table(page, 228, columns, rows, row_height=23)
    for name, value in (("Subtotal", "1,037.50"), ("Value added tax, 25 %", "259.38")):
        y += 21
        line(page, 440, y, name, font=SANS, size=9.5, align=RIGHT, color=GREY)
        line(page, right - 6, y, value, font=SANS, size=9.5, align=RIGHT)
    rule(page, y + 9, x0=330, color=INK)
    y += 27
    line(page, 440, y, "Total due (EUR)", font=SANS_BOLD, size=11, align=RIGHT)
    line(page, right - 6, y, "1,296.88", font=SANS_BOLD, size=11, align=RIGHT)
    paragraph(
        page, MARGIN, y + 42, right - MARGIN,
        """Payment within 30 days to account 5521 0087 4410, reference 2041. The boxes of order
        HSL-118 are kept in our workshop until 15 March; please call before collecting them.""",
        font=SANS, size=9.5, leading=1.45, align=LEFT,
    )  # fmt: skip
    rule(page, 770)
    footer = "Lindqvist Bookbinding   ·   Kiln Lane 7, Port Ellery   ·   workshop@lindqvist.example"
    line(page, WIDTH / 2, 786, footer, font=SANS, size=8, align=CENTER, color=GREY)


def article(document: pymupdf.Document) -> None:
    """A two-column article with headings, a displayed formula and references."""
    page, column = document.new_page(width=WIDTH, height=HEIGHT), 228.0
    title = "Measuring Light Rain with a Kitchen Scale"
    line(page, WIDTH / 2, 92, title, font=SERIF_BOLD, size=19, align=CENTER)
    line(page, WIDTH / 2, 116, "Ines Okafor and Tomas Brandt", size=11.5, align=CENTER)
    where = "Ellery Amateur Weather Society"
    line(page, WIDTH / 2, 131, where, font=SERIF_ITALIC, size=10, align=CENTER)
    line(page, WIDTH / 2, 160, "Abstract", font=SERIF_BOLD, size=10, align=CENTER)
    top = 22 + paragraph(
        page, 104, 166, WIDTH - 208,
        """A scale that weighs a pan of rain resolves a sixtieth of a millimetre and costs less
        than a good umbrella. Over one wet season its total differs by 2.7 per cent from that of
        a tipping gauge, and it registers drizzle that the gauge misses.""",
        size=9.5,
    )  # fmt: skip
    y = section_column(page, MARGIN, top, column, ARTICLE_LEFT)
    x = MARGIN + 62.0  # the formula, piece by piece: h = (m - m0) / (rho A)
    for text, font, drop in (
        ("h", SERIF_ITALIC, 0), ("  =  ( ", SERIF, 0), ("m", SERIF_ITALIC, 0), ("  -  ", SYMBOL, 0),
        ("m", SERIF_ITALIC, 0), ("0", SERIF, 2.5), (" ) / ( ", SERIF, 0), ("r", SYMBOL, 0),
        (" A", SERIF_ITALIC, 0), (" )", SERIF, 0),
    ):  # fmt: skip
        x += line(page, x, y + 14 + drop, text, font=font, size=7.5 if drop else 11.5)
    line(page, MARGIN + column, y + 14, "(1)", align=RIGHT)
    y = paragraph(
        page, MARGIN, y + 26, column,
        """with the density of water in the denominator and the mass of the empty pan taken off.
        One gram on our pan is 0.017 mm of rain.""",
    )  # fmt: skip
    y = section_column(page, WIDTH - MARGIN - column, top, column, ARTICLE_RIGHT)
    x = WIDTH - MARGIN - column
    line(page, x, y + 14, "References", font=SERIF_BOLD, size=12.5)
    y += 20
    for text in (
        "[1] I. Okafor. A pan, a stone and a cable. Society Letters 12, 2023.",
        "[2] T. Brandt. What the tipping gauge does not tip for. Society Letters 14, 2024.",
    ):
        y = paragraph(page, x, y, column, text, size=9, align=LEFT) + 2
    line(page, WIDTH / 2, 800, "17", size=9.5, align=CENTER)


def section_column(
    page: pymupdf.Page,
    x: float,
    y: float,
    width: float,
    pieces: Sequence[tuple[str | None, str]],
) -> float:
    """Set headings and paragraphs one below the other; returns the y below the last."""
    for heading, text in pieces:
        if heading is not None:
            line(page, x, y + 14, heading, font=SERIF_BOLD, size=12.5)
            y += 20
        y = paragraph(page, x, y, width, text) + 8
    return y


def tides(document: pymupdf.Document) -> None:
    """A page with a chart drawn as vectors, its caption and text around it."""
    page, width = document.new_page(width=WIDTH, height=HEIGHT), WIDTH - 2.0 * MARGIN
    line(page, MARGIN, 92, "Reading the tide table", font=SANS_BOLD, size=18)
    y = paragraph(
        page, MARGIN, 104, width,
        """The sea at Port Ellery rises and falls twice a day, but not twice alike. The morning
        flood of the week shown below is the higher one; boats with deep keels should cross the
        bar on it, and leave the evening flood to dinghies.""",
    )  # fmt: skip
    box = pymupdf.Rect(MARGIN + 34, y + 24, WIDTH - MARGIN - 40, y + 244)
    for metres in range(5):
        level = box.y1 - box.height * metres / 4.5
        rule(page, level, x0=box.x0, x1=box.x1, width=0.4)
        line(page, box.x0 - 8, level + 3, str(metres), font=SANS, size=8.5, align=RIGHT)
    for day in range(4):
        x = box.x0 + box.width * day / 3
        page.draw_line((x, box.y1), (x, box.y1 + 4), color=INK, width=0.6)
        line(page, x, box.y1 + 15, f"{24 * day} h", font=SANS, size=8.5, align=CENTER)
    curve = []
    for step in range(217):
        hours = step / 3
        height = 2.2 + 1.5 * math.sin(hours * 2 * math.pi / 12.42)
        height += 0.5 * math.sin(hours * 2 * math.pi / 24.84 + 0.4)
        curve.append((box.x0 + box.width * hours / 72, box.y1 - box.height * height / 4.5))
    page.draw_polyline(curve, color=(0.1, 0.35, 0.6), width=1.6)
    bar = box.y1 - box.height * 3.1 / 4.5
    page.draw_line(
        (box.x0, bar), (box.x1, bar), color=(0.75, 0.2, 0.15), width=0.9, dashes="[4 3] 0"
    )
    line(page, box.x1 + 6, bar + 3, "bar open", font=SANS, size=8.5)
    page.draw_rect(box, color=INK, width=0.8)
    line(page, MARGIN, box.y0 - 8, "Height in metres", font=SANS, size=8.5)
    caption = "Figure 1. Water height at the harbour wall over three days. Above the dashed line"
    line(page, MARGIN, box.y1 + 38, caption, font=SERIF_ITALIC, size=10)
    line(page, MARGIN, box.y1 + 51, "the bar can be crossed.", font=SERIF_ITALIC, size=10)
    line(page, MARGIN, box.y1 + 86, "Three rules for visitors", font=SANS_BOLD, size=13)
    y = box.y1 + 96
    rules = (
        "Add one hour to the printed time in summer.",
        "Take the height from the table and subtract the depth on the chart, not the reverse.",
        "If wind has blown from the south for two days, expect twenty centimetres more.",
    )
    for number, text in enumerate(rules, start=1):
        line(page, MARGIN + 6, y + 12.5, f"{number}.", size=11.5)
        y = paragraph(page, MARGIN + 24, y, width - 24, text, align=LEFT) + 3


def leaflet(document: pymupdf.Document) -> None:
    """Three pages with running header, footer, page numbers and five languages."""
    width, height = 420.0, 595.0
    right = width - MARGIN
    for number, pieces in enumerate(LEAFLET, start=1):
        page = document.new_page(width=width, height=height)
        line(page, MARGIN, 40, "Ellery Lighthouse Museum", font=SANS, size=8.5, color=GREY)
        line(page, right, 40, "Visitors' leaflet", font=SANS, size=8.5, align=RIGHT, color=GREY)
        rule(page, 48)
        y = 76.0
        if number == 1:
            line(page, MARGIN, 94, "A visit to the light", font=SERIF_BOLD, size=22)
            y = 114
        for heading, text in pieces:
            line(page, MARGIN, y + 14, heading, font=SERIF_BOLD, size=15)
            y = paragraph(page, MARGIN, y + 24, right - MARGIN, text, size=11.5, leading=1.4) + 16
        if number == 1:
            columns = [(MARGIN + 6, LEFT), (190, LEFT), (284, LEFT)]
            rows = [
                ("Season", "Museum", "Tower"),
                ("April to June", "10:00 - 17:00", "11:00 - 16:00"),
                ("July and August", "09:30 - 19:00", "10:00 - 18:00"),
                ("September, October", "10:00 - 16:00", "closed"),
            ]
            table(page, y, columns, rows, row_height=22, size=9.5)
        rule(page, height - 50)
        line(
            page, MARGIN, height - 36, "Kiln Lane 40, Port Ellery", font=SANS, size=8.5, color=GREY
        )
        line(
            page,
            right,
            height - 36,
            f"Page {number} of 3",
            font=SANS,
            size=8.5,
            align=RIGHT,
            color=GREY,
        )


def letter_scan(document: pymupdf.Document) -> None:
    """A typewritten letter as a scanner gives it: one grey JPEG, a little askew, no text layer."""
    sheet = pymupdf.open().new_page(width=WIDTH, height=HEIGHT)
    for number, text in enumerate(LETTER.splitlines()):
        line(sheet, 92, 110 + 21 * number, text, font=MONO, size=13)
    pixmap = sheet.get_pixmap(dpi=105, colorspace=pymupdf.csGRAY)
    clean = Image.frombytes("L", (pixmap.width, pixmap.height), pixmap.samples)
    askew = clean.rotate(0.7, Image.Resampling.BICUBIC, fillcolor=255)
    paper = np.asarray(askew, dtype=np.float64) * (214 / 255) + 24
    across = np.linspace(-1, 1, paper.shape[1])
    grain = np.random.default_rng(1958).normal(0, 3.0, paper.shape)
    pixels = np.clip(paper - 9 * across**2 + grain, 0, 255).astype(np.uint8)
    jpeg = io.BytesIO()
    Image.fromarray(pixels).save(jpeg, "JPEG", quality=34)
    page = document.new_page(width=WIDTH, height=HEIGHT)
    page.insert_image(page.rect, stream=jpeg.getvalue())


def slides(document: pymupdf.Document) -> None:
    """Two slides for a projector: a title, and a heading over points, all in large type."""
    width, height, margin = 720.0, 540.0, 40.0
    title = document.new_page(width=width, height=height)
    for y, text, font, size in TITLE_SLIDE:
        line(title, width / 2, y, text, font=font, size=size, align=CENTER)
    points = document.new_page(width=width, height=height)
    heading, *rest = SLIDE
    line(points, margin, 96, heading, font=SANS_BOLD, size=54)
    rule(points, 124, x0=margin, x1=width - margin, width=2, color=INK)
    for number, text in enumerate(rest):
        line(points, margin, 196 + 72 * number, f"- {text}", font=SANS, size=42)


def notice(document: pymupdf.Document) -> None:
    """A notice for a door: a sheet on its side, a heading and a few lines to read from afar."""
    page = document.new_page(width=HEIGHT, height=WIDTH)
    heading, *rest = NOTICE
    line(page, HEIGHT / 2, 104, heading, font=SERIF_BOLD, size=76, align=CENTER)
    for number, text in enumerate(rest):
        line(page, HEIGHT / 2, 184 + 66 * number, text, size=48, align=CENTER)


DOCUMENTS: dict[str, Callable[[pymupdf.Document], None]] = {
    "article.pdf": article,
    "invoice.pdf": invoice,
    "leaflet.pdf": leaflet,
    "letter-scan.pdf": letter_scan,
    "notice.pdf": notice,
    "slides.pdf": slides,
    "tides.pdf": tides,
}


def make_examples(folder: Path) -> None:
    """Write all examples into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in DOCUMENTS.items():
        document = pymupdf.open()
        draw(document)
        # Neither dates nor a random /ID: the bytes depend on the text alone.
        document.set_metadata({"title": Path(name).stem, "producer": "make_examples.py"})
        document.save(folder / name, garbage=3, deflate=True, no_new_id=True)


if __name__ == "__main__":
    make_examples(Path(sys.argv[1] if len(sys.argv) > 1 else "examples"))
