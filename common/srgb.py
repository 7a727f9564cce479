"""Pixels of any mode of Pillow to 8-bit sRGB, in bands."""

import io
import struct
import zlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from common.photo import Refused

# Greatest values of 8, 10, 12, 16, 24 and 32 bits.
LEVELS: Final = (255, 1023, 4095, 65535, (1 << 24) - 1, (1 << 32) - 1)
# Pixels that are converted at a time, so that no second copy of a large picture is needed.
BAND: Final = 1 << 18
# What Pillow's decoders raise on damaged data; the exceptions have no common base class.
DAMAGE: Final = (
    OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, OverflowError, RuntimeError,
    struct.error, zlib.error,
)  # fmt: skip


def _bands(image: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    rows = max(1, BAND // image.width)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        yield slice(top, bottom), image.crop((0, top, image.width, bottom))


def to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """An image of 8-bit channels in sRGB, uint8 (H, W, 3), laid over white where it is transparent."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    clear = image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info
    profile = image.info.get("icc_profile")
    mode, transform = _to_srgb(profile, image.mode) if profile else ("RGB", None)
    for rows, band in _bands(image):
        if clear:
            layers = band.convert("RGBA")
            band = Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers)
        band = band if band.mode == mode else band.convert(mode)
        pixels[rows] = np.asarray(band if transform is None else ImageCms.applyTransform(band, transform))
    return pixels


@lru_cache(maxsize=16)
def _to_srgb(profile: bytes, mode: str) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """The mode that pixels must have to be converted to sRGB, and how; RGB as they are if there is no need.

    There is none if the profile is damaged or of another kind than the pixels, or changes no colour by more
    than two levels.
    """
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        fitting, modes = {
            "RGB": ("RGB", ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX")),
            "GRAY": ("L", ("1", "L", "LA")),
            "CMYK": ("CMYK", ("CMYK",)),
        }[source.profile.xcolor_space.strip()]
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        flags, target = ImageCms.Flags.BLACKPOINTCOMPENSATION, ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(source, target, fitting, "RGB", intent, flags)
    except (*DAMAGE, ImageCms.PyCMSError):
        return "RGB", None
    levels = (15 * np.indices((18, 18, 18)).T).astype(np.uint8)
    samples = Image.fromarray(levels.reshape(18, -1, 3)).convert(fitting)
    converted = np.asarray(ImageCms.applyTransform(samples, transform), np.int16)
    if mode not in modes or np.abs(converted - np.asarray(samples.convert("RGB"))).max() <= 2:
        return "RGB", None
    return fitting, transform


def scaled(image: Image.Image) -> NDArray[np.uint8]:
    """A gray image of more than 8 bits, uint8 (H, W, 3), by the range that its values use.

    Raises:
        Refused: values are negative or not finite.
    """
    bounds = [each(np.asarray(band)) for _, band in _bands(image) for each in (np.min, np.max)]
    low, high = float(np.min(bounds)), float(np.max(bounds))
    if not (low >= 0 and np.isfinite([low, high]).all()):
        raise Refused("not-read", f"values from {low:g} to {high:g}; save it with 8 bits")
    levels = (1, *LEVELS) if image.mode == "F" else LEVELS
    scale = 255 / next((level for level in levels if high <= level), high)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for rows, band in _bands(image):
        pixels[rows] = (np.asarray(band) * scale + 0.5)[..., None]
    return pixels
