"""Formats of photos: how they are called, what they begin with, and which of them are not read."""

from functools import lru_cache
from typing import Final

from PIL import Image
from pillow_heif import register_heif_opener

ACCEPTED: Final = (*("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF"),)
"""Formats of photos; others that Pillow knows, such as EPS, would start programs or are not images."""

RAW_SUFFIXES: Final = (
    *("3fr", "arw", "cr2", "cr3", "dng", "erf", "iiq", "kdc", "mrw", "nef", "nrw", "orf", "pef", "raf"),
    *("rw2", "srw", "x3f"),
)
"""Suffixes of cameras' raw files."""

SUFFIXES: Final = frozenset(
    f".{suffix}"
    for suffix in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm"),
        *("jp2", "avif", "heic", "heif", "jxl", *RAW_SUFFIXES),
    )
)
"""Suffixes of images, in lower case, including those that are refused by name."""

HEAD: Final = 32
"""Bytes from the start of a file that tell its format."""

JPEG_XL: Final = (b"\xff\x0a", b"\x00\x00\x00\x0cJXL \r\n\x87\n")

_MARKS: Final = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"II*\0", b"MM\0*", b"\x00\x00\x00\x0cjP  "),
    *JPEG_XL,
)
_BRANDS: Final = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1", b"crx ")
_RAW_MARKS: Final = (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FOVb", b"\0MRM")


def looks_like_image(head: bytes) -> bool:
    """Whether a file that begins with `head`, its first `HEAD` bytes, is an image of a known format."""
    return (
        head.startswith((*_MARKS, *_RAW_MARKS))
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[4:8] == b"ftyp" and head[8:12] in _BRANDS)
        or (head[:2] == b"BM" and head[6:10] == bytes(4))
    )


def is_raw(head: bytes) -> bool:
    """Whether a file begins as raw files do that are no TIFF, or as Canon's CR2."""
    return head.startswith(_RAW_MARKS) or head[8:10] == b"CR" or head[4:12] == b"ftypcrx "


@lru_cache(maxsize=1)
def formats() -> list[str]:
    """The names of those of `ACCEPTED` that this installation of Pillow reads."""
    Image.init()
    register_heif_opener(thumbnails=False, decode_threads=1)
    return [name for name in ACCEPTED if name in Image.OPEN]
