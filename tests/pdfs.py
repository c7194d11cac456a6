"""PDFs for tests, made on the spot. Every maker returns the bytes of a file.

Positions are in the PDF's user space: points, y up.
"""

import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from docr.pdf.mupdf import pymupdf
from docr.types import SourceFile

A4 = (0.0, 0.0, 595.0, 842.0)
FONT = b"<</Font<</F1<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>>>"
USER_PASSWORD = "open sesame"


@dataclass(frozen=True)
class Page:
    """A page by its content stream."""

    content: bytes = b""
    media_box: tuple[float, ...] = A4
    crop_box: tuple[float, ...] | None = None
    rotate: int = 0
    user_unit: float = 1.0
    resources: bytes = FONT
    filters: bytes = b""

    def dictionary(self, parent: int, content: int) -> bytes:
        entries = [b"/Type/Page/Parent %d 0 R/Contents %d 0 R" % (parent, content)]
        entries.append(b"/Resources" + self.resources + b"/MediaBox" + _array(self.media_box))
        if self.crop_box is not None:
            entries.append(b"/CropBox" + _array(self.crop_box))
        if self.rotate:
            entries.append(b"/Rotate %d" % self.rotate)
        if self.user_unit != 1.0:
            entries.append(b"/UserUnit %g" % self.user_unit)
        return b"<<" + b"".join(entries) + b">>"


def pdf(*pages: Page, extra: Sequence[bytes] = (), announced: int | None = None) -> bytes:
    """A PDF of raw pages that announces another number of them, where that is said.

    `extra` are further objects, numbered from 3.
    """
    first = 3 + len(extra)
    kids = b" ".join(b"%d 0 R" % (first + 2 * i) for i in range(len(pages)))
    objects = [b"<</Type/Catalog/Pages 2 0 R>>"]
    count = len(pages) if announced is None else announced
    objects.append(b"<</Type/Pages/Count %d/Kids[%s]>>" % (count, kids))
    objects += extra
    for i, page in enumerate(pages):
        objects += [page.dictionary(2, first + 2 * i + 1), stream(page.content, page.filters)]
    body, offsets = bytearray(b"%PDF-1.7\n"), []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    start, size = len(body), len(objects) + 1
    body += b"xref\n0 %d\n0000000000 65535 f \n" % size
    body += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    body += b"trailer\n<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % (size, start)
    return bytes(body)


def stream(content: bytes, dictionary: bytes = b"") -> bytes:
    return b"<<%s/Length %d>>stream\n%s\nendstream" % (dictionary, len(content), content)


def _array(numbers: Sequence[float]) -> bytes:
    return b"[" + b" ".join(b"%g" % number for number in numbers) + b"]"


def words(text: str, *, x: float = 72, y: float = 700, size: float = 24, grey: float = 0) -> bytes:
    """Content: one line of text."""
    line = text.encode("latin-1")
    return b"BT %g g /F1 %g Tf %g %g Td (%s) Tj ET\n" % (grey, size, x, y, line)


def rectangle(
    x0: float, y0: float, x1: float, y1: float, rgb: tuple[float, float, float] = (1, 0, 0)
) -> bytes:
    """Content: a filled rectangle."""
    return b"%g %g %g rg %g %g %g %g re f\n" % (*rgb, x0, y0, x1 - x0, y1 - y0)


def text_pages(count: int = 1) -> bytes:
    """`count` pages, each saying its number."""
    return pdf(*(Page(words(f"This is page {number}.")) for number in range(1, count + 1)))


def tinted_pages(count: int) -> bytes:
    """Pages with text; the red level (0-255) of the paper is the page's index."""
    full = (0, 0, 595, 842)
    return pdf(
        *(
            Page(rectangle(*full, rgb=((index + 0.25) / 255, 1, 1)) + words(f"Page {index + 1}"))
            for index in range(count)
        )
    )


def blank_page() -> bytes:
    return pdf(Page())


def light_grey_word() -> bytes:
    """One word in the lightest grey that is not paper, drawn as a picture: no text layer."""
    image = Image.new("L", (400, 100), 255)
    image.paste(249, (100, 40, 180, 60))
    return image_only(image)


def full_stop() -> bytes:
    """A page with nothing but a full stop, drawn as a picture: no text layer."""
    return pdf(Page(rectangle(100, 700, 102, 702, rgb=(0, 0, 0))))


def invisible_text() -> bytes:
    """A page that looks blank and has a text layer, as after another program's OCR."""
    return pdf(Page(b"3 Tr " + words("hidden")))


def image_only(image: Image.Image | None = None) -> bytes:
    """A scan: one picture over the whole page and no text."""
    if image is None:
        image = Image.effect_noise((300, 400), 60)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    with pymupdf.open() as document:
        page = document.new_page(width=image.width, height=image.height)
        page.insert_image(page.rect, stream=buffer.getvalue())
        return bytes(document.tobytes())


def encrypted(user_password: str = USER_PASSWORD, *, pages: int = 1) -> bytes:
    """Locked by a user password; an empty one opens by itself."""
    with pymupdf.open(stream=text_pages(pages), filetype="pdf") as document:
        return bytes(
            document.tobytes(
                encryption=pymupdf.PDF_ENCRYPT_AES_256,
                user_pw=user_password,
                owner_pw="owner's own",
            )
        )


def annotated() -> bytes:
    """A page whose only visible thing is an annotation: a red rectangle."""
    with pymupdf.open() as document:
        annotation = document.new_page(width=300, height=300).add_rect_annot((100, 100, 200, 200))
        annotation.set_colors(stroke=(1, 0, 0), fill=(1, 0, 0))
        annotation.update()
        return bytes(document.tobytes())


def broken_xref(pages: int = 2) -> bytes:
    """The cross-reference table points nowhere; a reader can rebuild it."""
    return without_xref(text_pages(pages))


def without_xref(whole: bytes) -> bytes:
    """The same with a cross-reference table that points nowhere."""
    start = whole.rindex(b"startxref")
    return whole[:start] + b"startxref\n7\n%%EOF\n"


def zero_pages() -> bytes:
    return pdf()


def truncated(pages: int = 20) -> bytes:
    """Cut in the middle: what is left names pages that are gone."""
    whole = text_pages(pages)
    return whole[: whole.index(b"endobj", len(whole) // 2)]


def garbage() -> bytes:
    """Begins as a PDF does and goes on as nothing at all."""
    return b"%PDF-1.7\n" + bytes(range(256)) * 8


def packed_page(size: int) -> bytes:
    """A page whose content is `size` blanks, packed twice, and a rectangle."""
    content = zlib.compress(zlib.compress(b" " * size + rectangle(0, 0, 90, 90), 9), 9)
    return pdf(Page(content, filters=b"/Filter[/FlateDecode/FlateDecode]"))


def slow_page(index: int = 0, *, pages: int = 1) -> bytes:
    """One page that would take a renderer hours: forms that draw forms, ten at a time.

    Args:
        index: which page it is.
        pages: how many there are; the others are quick.
    """
    depth, first = 9, 3
    forms = [stream(rectangle(0, 0, 90, 90), b"/Type/XObject/Subtype/Form/BBox[0 0 99 99]")]
    for level in range(1, depth):
        resources = b"/Resources<</XObject<</F %d 0 R>>>>" % (first + level - 1)
        header = b"/Type/XObject/Subtype/Form/BBox[0 0 99 99]" + resources
        forms.append(stream(b"/F Do " * 10, header))
    slow = Page(b"/F Do", resources=b"<</XObject<</F %d 0 R>>>>" % (first + depth - 1))
    quick = Page(words("quick"))
    return pdf(*(slow if i == index else quick for i in range(pages)), extra=forms)


def image_file(image: Image.Image, kind: str, **options: object) -> bytes:
    """A page image: `kind` as Pillow names it."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def tiff(*frames: Image.Image) -> bytes:
    """A TIFF of several frames."""
    return image_file(frames[0], "TIFF", save_all=True, append_images=list(frames[1:]))


def saved(folder: Path, name: str, data: bytes) -> SourceFile:
    """Write a file and name it as the walk would."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return SourceFile(path=path, root=folder, relative=name)
