r"""What the model wrote, understood: layout blocks, Markdown, and figures to crop.

With grounding the model writes a block as a tag and the content that follows it:

    <|ref|>LABEL<|/ref|><|det|>[[x0, y0, x1, y1], ...]<|/det|>
    content, up to the next tag

Coordinates run from 0 to 999 over the width and the height of the page image. Labels are an open
set; where the model was asked to find something, the label is the text it found. Without grounding
there are no tags, and all of it is one block labelled "text".

The text is untrusted: a page can make the model write anything. `parse` takes any string, in time
proportional to its length, never raises and never evaluates. What is written stays:

- A tag counts when it is whole: both pairs in their order with at most white space between them,
  and in the second nothing but boxes. Of any other tag the marks go and all else stays as text.
- Coordinates are cut to whole numbers and to 0..999, and corners are put in order. A box without
  area stays with its block; it is no figure.
- A label that cannot be one of a layout (it is not in lower case, or an unknown one without
  content) is text, and stands before the block's content.
- Special tokens become a space, so that what stood around one cannot form another. Only the
  tokenizer's own names count: `<|x|>` on a page about pipes is text. Table tokens (`<td>`) stay.
- Control characters other than tabs and newlines go.

Markdown is the blocks in their order, with one blank line between them, and a final newline:

- "title" and "sub_title" become headings of the first and second level, unless they already are.
- "image" becomes a link for each figure; names of files are ours, never the model's. Figures are
  numbered over the page.
- Captions lose the <center> around them.
- Furniture (headers, footers, page numbers, page footnotes) can be left out; its blocks remain.
- Runs of blank lines become one, and lines lose trailing spaces, but not in tables, maths and
  fenced code, which stay as they are. A table without its end lasts until the block's end.

- HTML other than tables, links and images are spelled so that they only show (safe.py). The
  blocks' texts are not: there the model's spelling stays.

A table's content may stand in the block of the caption that follows it: so the model writes it.
"""

import re
from collections.abc import Iterator
from itertools import product

from docr.modes.safe import safe_markdown
from docr.types import Affine, Block, Box, ParsedPage

_Corners = tuple[int, int, int, int]

COORDINATE_MAX = 999
"""The model's coordinate of the page image's right and lower edges."""

PLAIN_LABEL = "text"

_POINT_DECIMALS = 3
"""Of points: finer than any pixel, and short in JSON."""

_FURNITURE = frozenset({"header", "footer", "page_number", "page_footnote"})
_HEADINGS = {"title": "# ", "sub_title": "## "}
_LAYOUT_LABELS = _FURNITURE | {
    *_HEADINGS,
    PLAIN_LABEL,
    "equation",
    "image",
    "image_caption",
    "image_footnote",
    "table",
    "table_caption",
    "table_footnote",
}
_LAYOUT_LIKE = re.compile(r"[a-z_]+")

_MARK = re.compile(r"<\|(/?(?:ref|det))\|>")
_TAG = ["ref", "/ref", "det", "/det"]
_NUMBER = r"\s*+([+-]?[0-9]++(?:\.[0-9]*+)?+)\s*+"
_BOX = re.compile(r"\s*+\[" + ",".join([_NUMBER] * 4) + r"\]\s*+")
_SPECIAL = re.compile(
    r"<\|(?:/?ref|/?det|grounding|User|Assistant|EOT)\|>"
    r"|<｜(?:begin▁of▁sentence|end▁of▁sentence|▁pad▁|User|Assistant|fim▁[a-z]{1,8}"
    r"|tool▁[a-z▁]{1,24}|place▁holder▁no▁[0-9]{1,3})｜>"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_CENTER = re.compile(r"</?center>")

_VERBATIM = re.compile(r"<table\b|\\\(|\\\[|```")
_VERBATIM_END = {"<table": "</table>", r"\(": r"\)", r"\[": r"\]", "```": "```"}


def parse(
    text: str,
    *,
    ref_number: int,
    image_size: tuple[int, int],
    px_to_pt: Affine | None,
    header_footer: bool,
) -> ParsedPage:
    """Turn the model's text into blocks and Markdown, by the rules above.

    Args:
        text: as decoded, special tokens kept; any string.
        ref_number: the page's number in its document, 1-based; names its figures.
        image_size: (width, height) of the page image, pixels.
        px_to_pt: from pixels to the PDF's user space; None for a page image.
        header_footer: keep page furniture in the Markdown.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    blocks: list[Block] = []
    paragraphs: list[str] = []
    figures: list[tuple[str, _Corners]] = []
    for label, corners, content in _split(_CONTROL.sub("", text)):
        boxes = tuple(_box(each, image_size, px_to_pt) for each in corners)
        crops = [box.px for box in boxes if label == "image" and _has_area(box)]
        names = [
            f"figures/page-{ref_number:04d}-{number}.png"
            for number in range(len(figures) + 1, len(figures) + len(crops) + 1)
        ]
        figures += zip(names, crops, strict=True)
        paragraphs += [f"![{label}]({name})" for name in names]
        content = _block_text(label, content)
        blocks.append(Block(label, boxes, content, figure=names[0] if names else None))
        if content and (header_footer or label not in _FURNITURE):
            heading = "" if content.startswith("#") else _HEADINGS.get(label, "")
            paragraphs.append(safe_markdown(heading + content))
    markdown = "\n\n".join(paragraphs) + "\n" if paragraphs else ""
    return ParsedPage(markdown, tuple(blocks), tuple(figures))


def _split(text: str) -> Iterator[tuple[str, list[_Corners], str]]:
    """Cut the text at its whole tags: (label, boxes, content) of every block, in order."""
    marks = list(_MARK.finditer(text))
    label, boxes = PLAIN_LABEL, list[_Corners]()
    start = index = 0
    while index < len(marks):
        tag = _read_tag(text, marks[index : index + 4])
        if tag is None:
            index += 1
            continue
        content = text[start : marks[index].start()]
        if start or _without_special(content):
            yield label, boxes, content
        label, boxes = tag
        start = marks[index + 3].end()
        index += 4
    if start or _without_special(text):
        yield label, boxes, text[start:]


def _read_tag(text: str, marks: list[re.Match[str]]) -> tuple[str, list[_Corners]] | None:
    """The label and boxes of the tag that these four marks make, or None where they make none."""
    if [mark[1] for mark in marks] != _TAG:
        return None
    ref, ref_end, det, det_end = marks
    if text[ref_end.end() : det.start()].strip():
        return None
    boxes = _read_boxes(text[det.end() : det_end.start()])
    if boxes is None:
        return None
    return _without_special(text[ref.end() : ref_end.start()]), boxes


def _read_boxes(text: str) -> list[_Corners] | None:
    """Read `[[x0, y0, x1, y1], ...]`, or one box by itself; None for anything else."""
    text = text.strip()
    if single := _BOX.fullmatch(text):
        return [_corners(single)]
    if not (text.startswith("[") and text.endswith("]")):
        return None
    text = text[1:-1].strip()
    boxes = []
    position = 0
    while position < len(text):
        match = _BOX.match(text, position)
        if match is None or text[match.end() : match.end() + 1] not in (",", ""):
            return None
        boxes.append(_corners(match))
        position = match.end() + 1
    return boxes


def _corners(match: re.Match[str]) -> _Corners:
    """Four numbers of any length as (x0, y0, x1, y1) in 0..999, x0 <= x1 and y0 <= y1."""
    # float: int() refuses long strings of digits, and takes quadratic time for shorter ones
    x0, y0, x1, y1 = (int(min(max(float(each), 0), COORDINATE_MAX)) for each in match.groups())
    return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


def _box(norm: _Corners, image_size: tuple[int, int], px_to_pt: Affine | None) -> Box:
    """The box in all its units. Pixels are cut to whole numbers as the model's scripts do."""
    width, height = image_size
    x0, x1 = (int(x / COORDINATE_MAX * width) for x in norm[0::2])
    y0, y1 = (int(y / COORDINATE_MAX * height) for y in norm[1::2])
    if px_to_pt is None:
        return Box(norm, (x0, y0, x1, y1), None)
    a, b, c, d, e, f = px_to_pt
    corners = list(product((x0, x1), (y0, y1)))
    xs = [a * x + c * y + e for x, y in corners]
    ys = [b * x + d * y + f for x, y in corners]
    left, bottom, right, top = (
        round(each, _POINT_DECIMALS) for each in (min(xs), min(ys), max(xs), max(ys))
    )
    return Box(norm, (x0, y0, x1, y1), (left, bottom, right, top))


def _has_area(box: Box) -> bool:
    x0, y0, x1, y1 = box.px
    return x0 < x1 and y0 < y1


def _block_text(label: str, content: str) -> str:
    """A block's text: its content, tidied, after its label where that is text itself."""
    text = _without_special(content)
    if label not in _LAYOUT_LABELS and not (text and _LAYOUT_LIKE.fullmatch(label)):
        text = f"{label}\n{text}"
    return _tidied(text, keep_center=not label.endswith("_caption"))


def _without_special(text: str) -> str:
    return _SPECIAL.sub(" ", text).strip()


def _tidied(text: str, *, keep_center: bool) -> str:
    """Tidy white space and, unless `keep_center`, drop <center>; not in what stays verbatim."""
    pieces = []
    for piece, verbatim in _pieces(text):
        if not verbatim:
            piece = piece if keep_center else _CENTER.sub("", piece)
            *lines, rest = piece.split("\n")  # the rest goes on in the next piece
            piece = "\n".join([*(line.rstrip() for line in lines), rest])
            piece = re.sub(r"\n{3,}", "\n\n", piece)
        pieces.append(piece)
    return "".join(pieces).strip()


def _pieces(text: str) -> Iterator[tuple[str, bool]]:
    """Cut the text into pieces and say which are to stay verbatim: tables, maths, fenced code."""
    start = position = 0
    unclosed: set[str] = set()  # ends that are nowhere ahead; searching anew would be quadratic
    while opening := _VERBATIM.search(text, position):
        position = opening.end()
        closing = _VERBATIM_END[opening[0]]
        if closing in unclosed:
            continue
        end = text.find(closing, position)
        if end >= 0:
            end += len(closing)
        elif opening[0] == "<table":
            end = len(text)
        else:
            unclosed.add(closing)
            continue
        yield text[start : opening.start()], False
        yield text[opening.start() : end], True
        start = position = end
    yield text[start:], False
