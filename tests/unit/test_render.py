import dataclasses
import io
import math
import mmap
import os
from pathlib import Path

import numpy as np
import pymupdf
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from docr.errors import InputError
from docr.pdf.child import map_source, open_document
from docr.pdf.images import ImageDocument
from docr.pdf.render import PdfDocument, describe, is_blank
from docr.pdf.settings import MAX_SIDE_PX, RenderSettings, choose_scale
from docr.types import PageImage, PageRef
from tests import pdfs
from tests.pdfs import Page

SETTINGS = RenderSettings(min_edge_px=640, max_pixels=4_000_000)


def render(data: bytes, index: int = 0, settings: RenderSettings = SETTINGS) -> PageImage:
    return PdfDocument(data, settings).render(PageRef(Path("x.pdf"), index))


def red_box(image: PageImage) -> tuple[int, int, int, int]:
    """(x0, y0, x1, y1) in pixels of what is purely red."""
    red = np.all(image.pixels == (255, 0, 0), axis=2)
    rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def in_points(image: PageImage, box: tuple[int, int, int, int]) -> list[float]:
    """The box in user space, as (left, bottom, right, top)."""
    assert image.px_to_pt is not None
    a, b, c, d, e, f = image.px_to_pt
    xs = [a * x + c * y + e for x, y in (box[:2], box[2:])]
    ys = [b * x + d * y + f for x, y in (box[:2], box[2:])]
    return [min(xs), min(ys), max(xs), max(ys)]


def test_a_page_of_text() -> None:
    image = render(pdfs.text_pages(3), 1)
    assert image.pixels.shape == (1684, 1190, 3)  # A4 at 144 dpi
    assert image.pixels.dtype == np.uint8
    assert (image.dpi, image.page_pt, image.rotation) == (144.0, (595.0, 842.0), 0)
    assert image.ref.number == 2
    assert image.has_text
    assert not is_blank(image)
    assert image.rendered_by == f"mupdf {pymupdf.mupdf_version}"
    assert image.warnings == ()


def test_a_page_that_unpacks_to_too_much_is_refused() -> None:
    small = RenderSettings(max_content=3 << 20)
    assert not is_blank(render(pdfs.packed_page(2 << 20), settings=small))
    bomb = pdfs.packed_page(4 << 20)
    assert len(bomb) < 2000
    with pytest.raises(InputError, match="more than 3 MiB") as failure:
        render(bomb, settings=small)
    assert failure.value.code == "too-large"


@pytest.mark.parametrize("rotate", [0, 90, 180, 270, -90, 450])
@pytest.mark.parametrize("user_unit", [1, 2.5])
def test_pixels_map_to_user_space(rotate: int, user_unit: float) -> None:
    page = Page(
        pdfs.rectangle(200, 300, 260, 330),
        media_box=(10, 20, 610, 820),
        crop_box=(60, 90, 500, 700),
        rotate=rotate,
        user_unit=user_unit,
    )
    image = render(pdfs.pdf(page))
    assert image.rotation == rotate % 360
    size = (440 * user_unit, 610 * user_unit)
    assert image.page_pt == pytest.approx(size if rotate % 180 == 0 else size[::-1])
    pixel = 72 / image.dpi / user_unit
    assert in_points(image, red_box(image)) == pytest.approx([200, 300, 260, 330], abs=1.5 * pixel)
    height, width = image.pixels.shape[:2]
    visible = in_points(image, (0, 0, width, height))
    assert visible == pytest.approx([60, 90, 500, 700], abs=2 * pixel)


def test_rotation_is_applied_clockwise() -> None:
    top_left = Page(pdfs.rectangle(0, 742, 100, 842), rotate=90)
    x0, y0, x1, y1 = red_box(render(pdfs.pdf(top_left)))
    assert (x0 > 1400, y0, x1, y1) == (True, 0, 1684, 200)  # top right, on its side


def test_positions_agree_with_the_text_layer() -> None:
    data = pdfs.pdf(Page(pdfs.words("needle", x=100, y=500), crop_box=(50, 60, 500, 700)))
    image = render(data)
    ink = np.argwhere(image.pixels.min(axis=2) < 128)
    (y0, x0), (y1, x1) = ink.min(axis=0), ink.max(axis=0) + 1
    left, bottom, right, top = in_points(image, (int(x0), int(y0), int(x1), int(y1)))
    with pymupdf.open(stream=data, filetype="pdf") as document:
        found = document[0].search_for("needle")[0] * ~document[0].transformation_matrix
    assert found.x0 - 1 <= left <= found.x0 + 3
    assert found.x1 - 3 <= right <= found.x1 + 1
    assert 499 <= bottom <= 501
    assert 515 <= top <= 520


@pytest.mark.parametrize(
    ("data", "blank"),
    [
        (pdfs.blank_page(), True),
        (pdfs.pdf(Page(pdfs.rectangle(0, 0, 595, 842, (0.2, 0.3, 0.4)))), True),  # coloured paper
        (pdfs.light_grey_word(), False),
        (pdfs.full_stop(), False),
        (pdfs.invisible_text(), False),
        (pdfs.pdf(Page(pdfs.words("  "))), True),
        (pdfs.annotated(), False),
        (pdfs.image_only(), False),
    ],
)
def test_blank_pages(data: bytes, blank: bool) -> None:
    assert is_blank(render(data)) is blank


@pytest.mark.parametrize(("level", "blank"), [(251, True), (250, False)])
def test_blank_means_within_four_levels_of_the_paper(level: int, blank: bool) -> None:
    scan = Image.new("RGB", (200, 200), "white")
    scan.putpixel((100, 100), (255, 255, level))
    assert is_blank(render(pdfs.image_only(scan), settings=RenderSettings(dpi=72))) is blank


def test_the_paper_is_the_commonest_colour() -> None:
    image = render(pdfs.blank_page())
    noisy = np.full((100, 100, 3), 200, np.uint8)
    noisy[:10] = 204
    noisy[10:20] = 196
    assert is_blank(_with(image, noisy))
    noisy[20:] = 204  # now 196 is eight levels away
    assert not is_blank(_with(image, noisy))


def _with(image: PageImage, pixels: np.ndarray) -> PageImage:
    return PageImage(image.ref, pixels, 72, (1, 1), 0, None, "", "test")


def test_annotations_are_drawn() -> None:
    box = in_points(image := render(pdfs.annotated()), red_box(image))
    assert box == pytest.approx([100, 100, 200, 200], abs=2)


@pytest.mark.parametrize(
    ("page_pt", "dpi", "size"),
    [
        ((595, 842), None, (1190, 1684)),
        ((100, 50), None, (640, 320)),  # enlarged to min_edge_px
        ((100, 50), 36, (50, 25)),  # unless a resolution is asked for
        ((595, 842), 72, (595, 842)),
        ((7200, 7200), None, (2000, 2000)),  # the budget: 4 million pixels
        ((7200, 7200), 1200, (2000, 2000)),
        ((500, 100_000), None, (100, 20_000)),
    ],
)
def test_scale(page_pt: tuple[float, float], dpi: float | None, size: tuple[int, int]) -> None:
    settings = RenderSettings(dpi=dpi, min_edge_px=640, max_pixels=4_000_000)
    scale = choose_scale(page_pt, settings)
    assert [side * scale for side in page_pt] == pytest.approx(size, abs=2)


@pytest.mark.parametrize(
    ("page_pt", "code"),
    [
        ((0, 100), "page-error"),
        ((-1, 100), "page-error"),
        ((math.nan, 100), "page-error"),
        ((math.inf, 100), "too-large"),
        ((1.5e19, 1.5e19), "too-large"),
        ((1, 100_000), "too-large"),
        ((10, 2001), "too-large"),  # a strip
    ],
)
def test_pages_without_a_sensible_size(page_pt: tuple[float, float], code: str) -> None:
    with pytest.raises(InputError) as failure:
        choose_scale(page_pt, SETTINGS)
    assert failure.value.code == code


@given(
    st.floats(1e-3, 1e6),
    st.floats(1e-3, 1e6),
    st.one_of(st.none(), st.floats(18, 1200)),
    st.integers(500_000, 50_000_000),
)
def test_no_page_exceeds_the_budget(w: float, h: float, dpi: float | None, budget: int) -> None:
    try:
        scale = choose_scale((w, h), RenderSettings(dpi=dpi, max_pixels=budget))
    except InputError as error:
        assert error.code in ("too-large", "page-error")
        return
    width, height = math.ceil(w * scale), math.ceil(h * scale)
    assert 1 <= width <= MAX_SIDE_PX
    assert 1 <= height <= MAX_SIDE_PX
    assert width * height <= budget


@pytest.mark.parametrize("side", [1, 3, 72, 14400, 200_000])
def test_tiny_and_huge_pages_render_within_bounds(side: float) -> None:
    image = render(pdfs.pdf(Page(pdfs.words("x"), media_box=(0, 0, side, side))))
    assert 640 <= image.pixels.shape[0] <= 2000
    assert image.dpi == pytest.approx(72 * image.pixels.shape[0] / side, rel=0.01)


def test_passwords() -> None:
    locked = pdfs.encrypted()
    for password, hint in ((None, "--password"), ("wrong", "wrong")):
        with pytest.raises(InputError, match=hint) as failure:
            PdfDocument(locked, RenderSettings(password=password))
        assert failure.value.code == "encrypted"
    assert PdfDocument(locked, RenderSettings(password=pdfs.USER_PASSWORD)).page_count == 1
    assert render(pdfs.encrypted("")).has_text  # an empty one is tried by itself
    assert render(pdfs.encrypted(""), settings=RenderSettings(password="any")).has_text
    assert "sesame" not in repr(RenderSettings(password=pdfs.USER_PASSWORD))


@pytest.mark.parametrize(
    ("data", "code"),
    [(pdfs.zero_pages(), "no-pages"), (pdfs.garbage(), "unreadable")],
)
def test_documents_that_cannot_be_opened(data: bytes, code: str) -> None:
    with pytest.raises(InputError) as failure:
        PdfDocument(data, SETTINGS)
    assert failure.value.code == code


def test_damage_is_repaired_with_warnings() -> None:
    document = PdfDocument(pdfs.broken_xref(2), SETTINGS)
    assert document.page_count == 2
    assert any("repair" in warning for warning in document.warnings)
    assert document.render(PageRef(Path("x"), 1)).has_text


def test_an_empty_page_of_a_repaired_file_is_suspect() -> None:
    pages = Page(), Page(pdfs.words("here"))
    document = PdfDocument(pdfs.without_xref(pdfs.pdf(*pages)), SETTINGS)
    empty, full = (document.render(PageRef(Path("x"), index)) for index in range(2))
    assert is_blank(empty)
    assert "repaired" in empty.warnings[0]
    assert full.warnings == ()
    assert not is_blank(full)


def test_text_that_could_not_be_drawn_is_no_content() -> None:
    image = render(pdfs.invisible_text())
    assert not is_blank(image)
    assert is_blank(dataclasses.replace(image, warnings=("cannot load font",)))


def test_warnings_are_of_their_page_alone() -> None:
    broken = Page(b"(unfinished << /F1 1 Tf BT " + b"nonsense " * 5)
    data = pdfs.pdf(broken, Page(pdfs.words("fine")), broken)
    document = PdfDocument(data, SETTINGS)
    first, second, third = (document.render(PageRef(Path("x"), index)) for index in range(3))
    assert first.warnings
    assert all("\n" not in warning and len(warning) <= 300 for warning in first.warnings)
    assert second.warnings == ()
    assert third.warnings == first.warnings


def test_lost_pages_are_missing_and_not_blank() -> None:
    document = PdfDocument(pdfs.truncated(8), SETTINGS)
    assert document.page_count == 8
    assert document.warnings
    for index in range(8):
        ref = PageRef(Path("x"), index)
        if index < 3:
            image = document.render(ref)
            # None of the file's damage is the first page's fault.
            assert (image.has_text, image.warnings) == (True, ())
        elif index > 4:
            with pytest.raises(InputError) as failure:
                document.render(ref)
            assert failure.value.code == "page-missing"


def test_a_page_that_is_not_there() -> None:
    with pytest.raises(InputError) as failure:
        render(pdfs.text_pages(1), 1)
    assert failure.value.code == "input-changed"


def test_sizes() -> None:
    pages = Page(), Page(media_box=(0, 0, 300, 200), rotate=90), Page(user_unit=2)
    document = PdfDocument(pdfs.pdf(*pages), SETTINGS)
    sizes = [document.size_px(i) for i in range(3)]
    for index, size in enumerate(sizes):
        pixels = document.render(PageRef(Path(), index)).pixels
        assert abs(pixels.shape[1] - size[0]) <= 1 and abs(pixels.shape[0] - size[1]) <= 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), "page-memory"),
        (RuntimeError("code=1: malloc (1024 bytes) failed"), "page-memory"),
        (RuntimeError("something else"), "page-error"),
        (InputError("too-large", "big"), "too-large"),
    ],
)
def test_failures_have_codes(error: Exception, code: str) -> None:
    assert describe(error)[0] == code
    assert describe(error)[1]


def opened(tmp_path: Path, name: str, data: bytes) -> object:
    source = pdfs.saved(tmp_path, name, data)
    descriptor = os.open(source.path, os.O_RDONLY)
    try:
        return open_document(map_source(descriptor), source.path.suffix, SETTINGS)
    finally:
        os.close(descriptor)


PNG = pdfs.image_file(Image.new("RGB", (30, 20), "red"), "PNG")


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("x.pdf", pdfs.text_pages(), PdfDocument),
        ("x.png", PNG, ImageDocument),
        ("scan", PNG, ImageDocument),
        ("scan.png", pdfs.text_pages(), PdfDocument),
        ("x.pdf", b"junk " * 100 + pdfs.text_pages(), PdfDocument),
        ("x.pdf", PNG, "not-a-pdf"),
        ("x.pdf", b"junk " * 300 + pdfs.text_pages(), "not-a-pdf"),
        ("x.pdf", b"\x1f\x8b" + pdfs.text_pages(), "not-a-pdf"),
        ("x.pdf", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not-a-pdf"),
        ("x.txt", b"hello", "not-a-pdf"),
        ("x.png", b"hello", "unreadable"),
        ("x.png", PNG[:20], "unreadable"),
    ],
)
def test_files_are_opened_by_their_content(
    tmp_path: Path, name: str, data: bytes, kind: object
) -> None:
    if isinstance(kind, str):
        with pytest.raises(InputError) as failure:
            opened(tmp_path, name, data)
        assert failure.value.code == kind
    else:
        assert type(opened(tmp_path, name, data)) is kind


def render_image(data: bytes, index: int = 0, settings: RenderSettings = SETTINGS) -> PageImage:
    return ImageDocument(io.BytesIO(data), settings).render(PageRef(Path("x"), index))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "BMP"])
def test_page_images(kind: str) -> None:
    scan = Image.new("RGB", (60, 40), (10, 200, 30))
    image = render_image(pdfs.image_file(scan, kind, quality=100))
    assert image.pixels.shape == (40, 60, 3)
    assert np.abs(image.pixels.astype(int) - (10, 200, 30)).max() <= 4
    assert (image.dpi, image.page_pt, image.px_to_pt) == (0, (0, 0), None)
    assert image.rendered_by.startswith("pillow ")


def test_every_frame_of_a_tiff_is_a_page() -> None:
    data = pdfs.tiff(*(Image.new("L", (10 * n, 10), 50 * n) for n in (1, 2, 3)))
    document = ImageDocument(io.BytesIO(data), SETTINGS)
    assert document.page_count == 3
    for index in (2, 0, 1):
        pixels = document.render(PageRef(Path("x"), index)).pixels
        assert pixels.shape[1] == 10 * (index + 1)
        assert pixels[0, 0, 0] == 50 * (index + 1)


def test_an_animation_has_one_page() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = pdfs.image_file(frames[0], "WEBP", save_all=True, append_images=frames[1:])
    assert ImageDocument(io.BytesIO(data), SETTINGS).page_count == 1


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind: str, orientation: int) -> None:
    upright = Image.new("RGB", (64, 48), "white")
    upright.paste("black", (0, 0, 16, 16))  # top left
    stored = upright
    for undo in {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }.get(orientation, []):
        stored = stored.transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = render_image(pdfs.image_file(stored, kind, exif=exif)).pixels
    assert pixels.shape == (48, 64, 3)
    assert pixels[:14, :14].max() < 60
    assert pixels[20:, 20:].min() > 200


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("1", (4, 4), 1), (255, 255, 255)),
        (Image.new("L", (4, 4), 77), (77, 77, 77)),
        (Image.new("I;16", (4, 4), 0x8000), (128, 128, 128)),
        (Image.new("RGBA", (4, 4), (255, 0, 0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (4, 4), (255, 0, 0, 255)), (255, 0, 0)),
        (Image.new("LA", (4, 4), (0, 0)), (255, 255, 255)),
        (Image.new("P", (4, 4)), (0, 0, 0)),
    ],
)
def test_modes_become_rgb_on_white(image: Image.Image, expected: tuple[int, ...]) -> None:
    pixels = render_image(pdfs.image_file(image, "PNG")).pixels
    assert pixels.shape == (4, 4, 3)
    assert tuple(pixels[0, 0]) == expected


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_images_over_the_budget_are_reduced(kind: str) -> None:
    large = Image.linear_gradient("L").resize((3000, 1500))
    small = RenderSettings(max_pixels=500_000)
    pixels = render_image(pdfs.image_file(large, kind), settings=small).pixels
    height, width = pixels.shape[:2]
    assert 400_000 < width * height <= 500_000
    assert width / height == pytest.approx(2, abs=0.01)
    assert pixels[0].mean() < 10 < 245 < pixels[-1].mean()


def test_an_image_bomb_is_refused_before_decoding() -> None:
    header = b"BM" + bytes(8) + b"\x36\0\0\0\x28\0\0\0"
    header += (60_000).to_bytes(4, "little") * 2 + b"\x01\0\x18\0" + bytes(24)
    with pytest.raises(InputError) as failure:
        render_image(header)
    assert failure.value.code == "too-large"


def test_a_truncated_image_fails() -> None:
    noise = pdfs.image_file(Image.effect_noise((200, 200), 50), "PNG")
    with pytest.raises(OSError, match="truncated"):
        render_image(noise[:3000])


def test_a_document_can_be_a_memory_map(tmp_path: Path) -> None:
    source = pdfs.saved(tmp_path, "x.pdf", pdfs.text_pages(2))
    with source.path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    assert render(data, 1).has_text  # type: ignore[arg-type]
