"""Page images as pixels, by Pillow. Runs in a caged child only, as render.py does."""

import math
import warnings
from contextlib import suppress
from typing import BinaryIO

import numpy as np
import PIL
from PIL import ExifTags, Image, UnidentifiedImageError

from docr.errors import InputError
from docr.pdf.settings import MAX_SIDE_PX, RenderSettings, check_aspect
from docr.pdf.wire import clean_lines
from docr.types import PageImage, PageRef

FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP")  # of Pillow's sixty, the ones asked for

# What EXIF's orientation asks for. TIFF's own is already undone by Pillow when it loads.
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURNED = (5, 6, 7, 8)  # these exchange width and height


class ImageDocument:
    """An open image file; every frame of a TIFF is a page, other formats have one.

    Raises:
        InputError: "unreadable", or "too-large" by its declared size.
    """

    rendered_by = f"pillow {PIL.__version__}"
    warnings: tuple[str, ...] = ()

    def __init__(self, file: BinaryIO, settings: RenderSettings) -> None:
        self._settings = settings
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's bomb warning; we have limits of our own
                self._image = Image.open(file, formats=FORMATS)
                # Animations and depth maps are not pages.
                tiff = self._image.format == "TIFF"
                self.page_count = int(getattr(self._image, "n_frames", 1)) if tiff else 1
        except Image.DecompressionBombError as error:
            raise InputError("too-large", str(error)) from error
        except UnidentifiedImageError as error:
            raise InputError("unreadable", "not an image of a known kind, or damaged") from error
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError("unreadable", f"damaged image: {error}") from error

    def size_px(self, index: int) -> tuple[int, int]:
        """(width, height) that a frame would be decoded to; zeros where that would fail."""
        with suppress(OSError, SyntaxError, ValueError, InputError):
            if self.page_count > 1:
                self._image.seek(index)
            width, height = self._fitting(self._image.size)
            turned = self._image.getexif().get(ExifTags.Base.Orientation, 1) in _TURNED
            return (height, width) if turned else (width, height)
        return 0, 0

    def render(self, ref: PageRef) -> PageImage:
        """Decode a frame: upright by its EXIF orientation, on white, within the pixel budget.

        Raises:
            InputError: its declared size is out of bounds, or the frame does not exist.
            Exception: whatever Pillow raises on damage.
        """
        if ref.index >= self.page_count:
            raise InputError("input-changed", f"the file now has {self.page_count} frames")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            image: Image.Image = self._image
            if self.page_count > 1:
                image.seek(ref.index)
            self._image.draft("RGB", self._fitting(image.size))  # JPEG: decoded at 1/2, 1/4 or 1/8
            image.load()
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            image = _plain(image)
            size = self._fitting(image.size)
            if size != image.size:
                image = image.resize(size, Image.Resampling.BOX, reducing_gap=2.0)
            if orientation in _TRANSPOSE:
                image = image.transpose(_TRANSPOSE[orientation])
        return PageImage(
            ref=ref,
            pixels=np.asarray(image.convert("RGB")),
            dpi=0.0,
            page_pt=(0.0, 0.0),
            rotation=0,
            px_to_pt=None,
            text="",
            rendered_by=self.rendered_by,
            warnings=clean_lines("\n".join(str(warning.message) for warning in caught)),
        )

    def _fitting(self, size: tuple[int, int]) -> tuple[int, int]:
        """The size, or a smaller one of the same shape that keeps to the pixel budget."""
        width, height = size
        if width * height > self._settings.max_image_pixels:
            what = f"the image declares {width} x {height} pixels (--max-image-pixels)"
            raise InputError("too-large", what)
        check_aspect(width, height, self._settings)
        scale = min(
            1.0,
            math.sqrt(self._settings.max_pixels / (width * height)),
            MAX_SIDE_PX / max(width, height),
        )
        return size if scale == 1.0 else (int(width * scale), int(height * scale))


def _plain(image: Image.Image) -> Image.Image:
    """Any mode as L or RGB: 16 bits cut to 8, transparency on white."""
    if image.mode.startswith("I"):  # I;16 of PNG and TIFF; I, of older Pillows, holds 16 bits too
        samples = np.asarray(image).astype(np.int64)
        return Image.fromarray((np.clip(samples, 0, 65535) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        paper = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(paper, image.convert("RGBA")).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L", "F") else "RGB")
