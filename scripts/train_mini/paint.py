"""From a set page to pixels, as the product will meet it, or to a PDF for the product itself."""

import dataclasses
import io
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from docr.types import U8
from scripts.train_mini.fonts import Face
from scripts.train_mini.layout import Page

Color = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Look:
    """How a page is inked and what a scanner does to it.

    Attributes:
        ink, paper: RGB.
        noise: standard deviation of the pixels' noise, of 255.
        blur: radius of a Gaussian, in pixels.
        jpeg: quality of a compression in between; None: none.
        turn: degrees anticlockwise, about the page's middle.
    """

    ink: Color = (0, 0, 0)
    paper: Color = (255, 255, 255)
    noise: float = 0.0
    blur: float = 0.0
    jpeg: int | None = None
    turn: float = 0.0


def random_look(rng: random.Random, *, turned: float = 0.0) -> Look:
    """Mostly black on white; some colours, some light on dark, some scans, `turned` of them."""
    kind = rng.random()
    if kind < 0.7:
        ink = rng.randrange(0, 60)
        look = Look(ink=(ink, ink, ink))
    elif kind < 0.9:
        ink = tuple(rng.randrange(0, 120) for _ in range(3))
        paper = tuple(rng.randrange(215, 256) for _ in range(3))
        look = Look(ink=ink, paper=paper)
    else:
        ink = tuple(rng.randrange(205, 256) for _ in range(3))
        paper = tuple(rng.randrange(0, 90) for _ in range(3))
        look = Look(ink=ink, paper=paper)
    if rng.random() < 0.25:
        look = Look(
            look.ink,
            look.paper,
            noise=rng.uniform(0, 14),
            blur=rng.uniform(0, 0.9),
            jpeg=rng.choice((None, rng.randrange(30, 90))),
        )
    if rng.random() < turned:
        look = dataclasses.replace(look, turn=rng.gauss(0.0, 0.8))
    return look


def paint(page: Page, px_per_pt: float, look: Look, seed: int) -> U8:
    """Draw a page.

    Args:
        page: what is on it.
        px_per_pt: resolution, the same in both directions.
        look: colours and damage.
        seed: of the noise.

    Returns:
        u8 [H,W,3], RGB.
    """
    size = (max(1, round(page.width * px_per_pt)), max(1, round(page.height * px_per_pt)))
    image = Image.new("RGB", size, look.paper)
    draw = ImageDraw.Draw(image)
    for rule in page.rules:
        box = tuple(value * px_per_pt for value in rule.box)
        if rule.filled:
            draw.rectangle(box, fill=look.ink)
        else:
            draw.rectangle(box, outline=look.ink, width=max(1, round(px_per_pt)))
    fonts: dict[tuple[Face, float], ImageFont.FreeTypeFont] = {}
    for word in page.words:
        font = fonts.get((word.face, word.size))
        if font is None:
            font = ImageFont.truetype(
                word.face.path, word.size * px_per_pt, layout_engine=ImageFont.Layout.BASIC
            )
            fonts[word.face, word.size] = font
        draw.text(
            (word.x * px_per_pt, word.baseline * px_per_pt),
            word.text,
            fill=look.ink,
            font=font,
            anchor="ls",
        )
    return _damage(image, look, seed)


def _damage(image: Image.Image, look: Look, seed: int) -> U8:
    if look.turn:
        image = image.rotate(look.turn, Image.Resampling.BICUBIC, fillcolor=look.paper)
    if look.blur:
        image = image.filter(ImageFilter.GaussianBlur(look.blur))
    if look.jpeg is not None:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=look.jpeg)
        image = Image.open(buffer).convert("RGB")
    pixels: U8 = np.asarray(image)
    if look.noise:
        grain = np.random.default_rng(seed).normal(0.0, look.noise, pixels.shape)
        pixels = np.clip(pixels + grain, 0, 255).astype(np.uint8)
    return pixels


def write_pdf(pages: list[Page], look: Look = Look()) -> bytes:
    """The same pages as a born-digital PDF; needs PyMuPDF."""
    import pymupdf

    ink = tuple(value / 255 for value in look.ink)
    document = pymupdf.open()
    fonts: dict[Face, pymupdf.Font] = {}
    for page in pages:
        sheet = document.new_page(width=page.width, height=page.height)
        paper = tuple(value / 255 for value in look.paper)
        sheet.draw_rect(sheet.rect, color=None, fill=paper)
        for rule in page.rules:
            sheet.draw_rect(pymupdf.Rect(rule.box), color=ink, fill=ink if rule.filled else None)
        writer = pymupdf.TextWriter(sheet.rect, color=ink)
        for word in page.words:
            font = fonts.get(word.face)
            if font is None:
                font = fonts[word.face] = pymupdf.Font(fontfile=str(word.face.path))
            writer.append((word.x, word.baseline), word.text, font=font, fontsize=word.size)
        writer.write_text(sheet)
    content: bytes = document.tobytes(garbage=3, deflate=True)
    return content
