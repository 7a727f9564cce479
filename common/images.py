"""Photos of any kind to upright RGB arrays, or the reason why not."""

import io
import struct
import warnings
from functools import lru_cache
from typing import IO, Any, Final

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin, UnidentifiedImageError
from pillow_heif import register_heif_opener

from common.photo import REDUCED_FROM, Photo, Refused, View, factor_within
from common.srgb import DAMAGE, scaled, to_rgb

Image.MAX_IMAGE_PIXELS = None  # the declared size is checked here, before decoding, with our own limit
PngImagePlugin.MAX_TEXT_CHUNK = 1 << 26  # bytes of XMP or of a colour profile, once they are unpacked
PngImagePlugin.MAX_TEXT_MEMORY = 1 << 27
# Formats of photos; others that Pillow knows, such as EPS, would start programs or are not images.
ACCEPTED: Final = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF")
# Suffixes of cameras' raw files.
RAW_SUFFIXES: Final = {
    ".3fr", ".arw", ".cr2", ".cr3", ".dng", ".erf", ".iiq", ".kdc", ".mrw", ".nef", ".nrw", ".orf",
    ".pef", ".raf", ".rw2", ".srw", ".x3f",
}  # fmt: skip
# Suffixes of images, in lower case, including those that are refused by name.
SUFFIXES: Final = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm",
    ".jp2", ".avif", ".heic", ".heif", ".jxl", *RAW_SUFFIXES,
}  # fmt: skip
HEAD: Final = 32  # Bytes from the start of a file that tell its format
JPEG_XL: Final = (b"\xff\x0a", b"\x00\x00\x00\x0cJXL \r\n\x87\n")

PNG: Final = b"\x89PNG\r\n\x1a\n"

_MARKS: Final = (b"\xff\xd8\xff", PNG, b"GIF8", b"II*\0", b"MM\0*", b"\x00\x00\x00\x0cjP  ", *JPEG_XL)
_BRANDS: Final = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1", b"crx ")
# Raw files that are no TIFF; Canon's CR2 is told by its bytes 8 and 9.
_RAW_MARKS: Final = (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FOVb", b"\0MRM")
# Notice of a JPEG that lacks its last bytes, but no more than 1024 pixels of the picture.
CUT_SHORT: Final = "cut-short"
MIN_SIDE: Final = 32  # Pixels of the shorter side below which an image is refused
# What a file and its decoding may take for each of the pixels that are allowed: 16-bit RGBA.
BYTES_PER_PIXEL: Final = 8
# What decoders take that need more than `BYTES_PER_PIXEL`, measured with Pillow 13.
DECODER_BYTES: Final = {"AVIF": 24, "JPEG2000": 24, "WEBP": 16}
# Optional chunks of a PNG that are read, 1 MB at most.
PNG_METADATA: Final = (b"tRNS", b"iCCP", b"eXIf", b"iTXt")
RAW: Final = "a raw file, whose thumbnail is not the photo; export it as JPEG or PNG"
# By EXIF orientation: quarter turns against the clock, after mirroring left and right or not.
UPRIGHT: Final = dict(
    enumerate([(0, False), (0, True), (2, False), (2, True), (1, True), (3, False), (3, True), (1, False)], 1)
)


def check_bytes(size: int, max_pixels: int) -> None:
    """Check that a file of `size` bytes may be an image of at most `max_pixels`, before it is read.

    Raises:
        Refused: ``too-large``.
    """
    if size > (most := BYTES_PER_PIXEL * max_pixels):
        raise Refused("too-large", f"{size:,} bytes, more than {most:,}")


def decode_photo(data: bytes, max_pixels: int, side: int | None = None) -> Photo:
    """Decode a photo to RGB, upright.

    Grayscale, CMYK and palettes are converted, transparency is laid over white, more than 8 bits are scaled
    by the range that they use, the EXIF orientation is applied, and of an animation the first frame is taken.
    Colours are converted to sRGB by the profile in the file, except gray ones of more than 8 bits. No other
    metadata matters: where it is damaged, it is ignored. `max_pixels` is the greatest declared width x
    height, and `side` the pixels of the longer side that suffice at first, by default all.

    Raises:
        Refused: ``empty``, ``not-an-image``, ``not-read``, ``too-large``, ``too-small`` or ``truncated``.
    """
    if not data:
        raise Refused("empty", "the file has no bytes")
    if data.startswith(_RAW_MARKS) or data[8:10] == b"CR" or data[4:12] == b"ftypcrx ":
        raise Refused("not-read", RAW)
    if data.startswith(JPEG_XL):
        raise Refused("not-read", "JPEG XL; convert it to JPEG or PNG, for example with djxl of libjxl")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = _open(data)
        width, height = image.size
        if width * height > max_pixels:
            raise Refused("too-large", f"declares {width} x {height} pixels, more than {max_pixels:,} in all")
        if min(width, height) < MIN_SIDE:
            raise Refused("too-small", f"{width} x {height} pixels, the shorter side must have {MIN_SIDE}")
        if (needed := width * height * _decoder_bytes(image)) > BYTES_PER_PIXEL * max_pixels:
            raise Refused(
                "too-large",
                f"{width} x {height} pixels take {needed:,} bytes while they are decoded, more than "
                f"{BYTES_PER_PIXEL} for each of {max_pixels:,}; save the photo as PNG",
            )
        jpeg = image.format in ("JPEG", "MPO")
        try:
            if jpeg and side is not None and width * height >= REDUCED_FROM:
                view = _decode(image, factor_within(max(width, height) / side))
                return Photo(view, lambda reduction: _decode(_opened(data), reduction))
            return Photo(_decode(image))
        except Refused:
            raise
        except DAMAGE as error:
            if jpeg and (whole := _decode_cut_short(data)) is not None:
                return Photo(whole, None, (CUT_SHORT,))
            raise Refused("truncated", f"the image data is damaged: {error}"[:200]) from error


def looks_like_image(head: bytes) -> bool:
    """Whether a file that begins with `head`, its first `HEAD` bytes, is an image of a known format."""
    return (
        head.startswith((*_MARKS, *_RAW_MARKS))
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[4:8] == b"ftyp" and head[8:12] in _BRANDS)
        or (head[:2] == b"BM" and head[6:10] == bytes(4))
    )


def is_image(stream: IO[bytes]) -> bool:
    """Whether a file, of any length, is an image of a known format, perhaps a damaged one."""
    stream.seek(0)
    if looks_like_image(stream.read(HEAD)):
        return True
    stream.seek(0)
    try:
        Image.open(stream, formats=formats())
    except UnidentifiedImageError:
        return False
    except DAMAGE:
        pass
    return True


@lru_cache(maxsize=1)
def formats() -> list[str]:
    """The names of those of `ACCEPTED` that this installation of Pillow reads."""
    Image.init()
    register_heif_opener(thumbnails=False, decode_threads=1)
    return [name for name in ACCEPTED if name in Image.OPEN]


def _decoder_bytes(image: Image.Image) -> int:
    """What decoding takes for each pixel; a progressive JPEG has all its coefficients in memory."""
    if image.info.get("progressive"):
        return max(BYTES_PER_PIXEL, 4 + 2 * len(image.getbands()))
    return DECODER_BYTES.get(image.format or "", BYTES_PER_PIXEL)


def _without_metadata(png: bytes) -> bytes:
    """A PNG without chunks that do not matter, of which Pillow would hold several copies."""
    parts, start, position = list[memoryview](), 0, 8
    view = memoryview(png)
    while position + 12 <= len(png):
        length, kind = struct.unpack_from(">I4s", png, position)
        end = position + 12 + length
        text = kind == b"iTXt" and not png.startswith(b"XML:com.adobe.xmp\0", position + 8)
        if kind[:1].islower() and (kind not in PNG_METADATA or text or length > 1 << 20):
            parts.append(view[start:position])
            start = end
        position = end
    return b"".join((*parts, view[start:])) if parts else png


def _open(data: bytes) -> Image.Image:
    try:
        image = _opened(_without_metadata(data) if data.startswith(PNG) else data)
    except UnidentifiedImageError as error:
        if data.startswith((b"II*\0", b"MM\0*")):
            raise Refused(
                "not-read", "a TIFF of this kind, such as colours in floating point; save it with 8 bits"
            ) from error
        raise Refused("not-an-image", "no image format was recognised") from error
    except DAMAGE as error:
        raise Refused("truncated", f"the image header is damaged: {error}"[:200]) from error
    # TIFF's NewSubfileType has bit 0 for a smaller copy of another picture in the file.
    if image.format == "TIFF" and (_tag(image, ExifTags.Base.DNGVersion) or (_tag(image, 254) or 0) & 1):
        raise Refused("not-read", RAW)
    return image


def _opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=formats())


def _tag(image: Image.Image, tag: int) -> int | None:
    """An integer of the EXIF data; None if there is none, or if the data is damaged."""
    try:
        value = image.getexif().get(tag)
    except DAMAGE:
        return None
    if isinstance(value, bytes | tuple):
        value = value[0] if value else None
    return value if isinstance(value, int) else None


def _decode_cut_short(data: bytes) -> View | None:
    """A JPEG whose end is missing, or None if that is more than 1024 pixels.

    The decoder makes pixels of whatever follows the data. Those that differ between two continuations are
    missing. Of a progressive JPEG, the last scan must have full precision (the low half of the last byte of
    its header, ITU-T T.81, B.2.3), or else later scans are missing.
    """
    data = data.rstrip(b"\xff")
    scan = data.rfind(b"\xff\xda")
    try:
        if data[scan + 1 + data[scan + 3]] & 15:
            return None
        first, second = (_decode(_opened(data + rest + b"\xff\xd9")) for rest in (b"", b"\x55" * 4096))
    except DAMAGE:
        return None
    return first if (first.pixels != second.pixels).any(axis=2).sum() <= 1024 else None


def _decode(image: Image.Image, reduction: int = 1) -> View:
    """An opened image, upright, or if it is a JPEG a reduced one; the image is closed."""
    width, height = image.size
    if reduction > 1:
        image.draft(None, (width // reduction, height // reduction))
    tiles: list[Any] = getattr(image, "tile", [])
    deep = bool(tiles) and ";16" in str(tiles[0][3])
    image.load()
    orientation = _tag(image, ExifTags.Base.Orientation)
    bands = scaled if image.mode in ("I", "F") or image.mode.startswith("I;16") else to_rgb
    pixels = bands(image)
    if (deep or bands is scaled) and pixels.max(initial=0) < 16:
        raise Refused("not-read", f"{image.mode} values of unknown range, almost black; save it with 8 bits")
    image.close()
    if reduction == 1:
        height, width = pixels.shape[:2]
    pixels = pixels[: height // reduction, : width // reduction]
    turns, mirrored = UPRIGHT.get(orientation or 1, UPRIGHT[1])
    pixels = np.rot90(pixels[:, ::-1] if mirrored else pixels, turns)
    shape = (height, width) if turns % 2 == 0 else (width, height)
    # These orientations have columns or rows in the file in the opposite order of the upright image's.
    corner = (
        shape[1] % reduction if orientation in (2, 3, 6, 7) else 0,
        shape[0] % reduction if orientation in (3, 4, 7, 8) else 0,
    )
    return View(np.ascontiguousarray(pixels), reduction, corner, shape)
