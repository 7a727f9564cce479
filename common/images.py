"""Photos of any kind to upright RGB arrays, or the reason why not."""

import io
import struct
import warnings
import zlib
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

Image.MAX_IMAGE_PIXELS = None  # the declared size is checked here, before decoding, with our own limit

ACCEPTED: Final = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""Formats of photos; others that Pillow knows, such as EPS, would start programs or are not images."""

DAMAGE: Final = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    TypeError,
    OverflowError,
    RuntimeError,
    struct.error,
    zlib.error,
)
"""What Pillow's decoders raise on damaged data; the exceptions have no common base class."""


class Refused(ValueError):
    """An image that cannot become a sample.

    Attributes:
        reason: short code, such as ``truncated``.
        detail: one sentence for the quarantine.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def decode_photo(data: bytes, max_pixels: int, min_side: int) -> NDArray[np.uint8]:
    """Decode a photo to RGB, uint8 (H, W, 3), upright.

    Grayscale, CMYK, palette and 16-bit images are converted, transparency is laid
    over white, the EXIF orientation is applied, and of an animation the first frame is taken.

    Args:
        data: the file's bytes.
        max_pixels: greatest declared width x height.
        min_side: least width and height in pixels.

    Raises:
        Refused: ``empty``, ``not-an-image``, ``too-large``, ``too-small`` or ``truncated``.
    """
    if not data:
        raise Refused("empty", "the file has no bytes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = Image.open(io.BytesIO(data), formats=_formats())
        except UnidentifiedImageError as error:
            raise Refused("not-an-image", "no image format was recognised") from error
        except DAMAGE as error:
            raise Refused("truncated", f"the image header is damaged: {error}"[:200]) from error
        width, height = image.size
        if width * height > max_pixels:
            raise Refused("too-large", f"declares {width} x {height} pixels, more than {max_pixels:,} in all")
        if min(width, height) < min_side:
            raise Refused("too-small", f"{width} x {height} pixels, the shorter side must have {min_side}")
        try:
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
        except DAMAGE as error:
            raise Refused("truncated", f"the image data is damaged: {error}"[:200]) from error


def _formats() -> list[str]:
    Image.init()
    return [name for name in ACCEPTED if name in Image.OPEN]


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith(("I;16", "I")):
        values = np.asarray(image).astype(np.float64)
        gray = np.clip(values / 257 + 0.5, 0, 255).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    if image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        layers = image.convert("RGBA")
        white = Image.new("RGBA", layers.size, "white")
        image = Image.alpha_composite(white, layers)
    return np.array(image.convert("RGB"))
