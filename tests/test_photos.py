"""What people's folders of photos hold: side files, odd metadata, deep pixels, other formats."""

import io
import struct
import zlib

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms

from common.errors import UserError
from common.images import CUT_SHORT, decode_photo
from common.photo import Refused
from tests.commands import run_python
from tests.listings import encoded, fill, planned

GRAY = np.linspace(20, 230, 60 * 80).reshape(60, 80).astype(np.uint8)
COLOUR = np.dstack([GRAY, GRAY[::-1], GRAY[:, ::-1]])


def as_bytes(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    return encoded(Image.fromarray(pixels), kind, **options)


def chunked(kind: bytes, body: bytes) -> bytes:
    """A PNG with one more chunk after its header."""
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    png = as_bytes(COLOUR, "png")
    return png[:33] + chunk + png[33:]


def tiff(pixels: np.ndarray, *more: tuple[int, int, int]) -> bytes:
    """A TIFF of `pixels`, with more tags as (tag, type, value)."""
    height, width, channels = (*pixels.shape, 1)[:3]
    bits, kind = 8 * pixels.itemsize, {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    tags = [(256, 3, width), (257, 3, height), (259, 3, 1), (262, 3, 2 if channels == 3 else 1)]
    tags += [(277, 3, channels), (278, 3, height), (279, 4, pixels.nbytes), *more]
    end = 8 + 2 + 12 * (len(tags) + 3) + 4
    arrays = struct.pack("<6H", *[bits] * 3, *[kind] * 3)
    entries = [struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in [*tags, (273, 4, end + 12)]]
    entries += [
        struct.pack("<HHII", tag, 3, channels, value if channels == 1 else end + offset)
        for tag, value, offset in ((258, bits, 0), (339, kind, 6))
    ]
    entries.sort(key=lambda entry: struct.unpack("<H", entry[:2]))
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8) + directory + arrays + pixels.tobytes()


def turned(entry: bytes, value: bytes) -> bytes:
    """EXIF data with orientation 6 and one more entry, whose value lies behind the directory."""
    orientation = struct.pack("<HHIHH", 0x112, 3, 1, 6, 0)
    return b"II*\0" + struct.pack("<IH", 8, 2) + orientation + entry + bytes(4) + value


NEGATIVE = turned(struct.pack("<HHIi", 0x11B, 9, 1, -5), b"")
ENDLESS = turned(struct.pack("<HHII", 0x11A, 5, 1, 900_000), b"")
DIVIDED = turned(struct.pack("<HHII", 0x11A, 5, 1, 38), struct.pack("<ii", -72, 0))
SMOOTH = as_bytes(COLOUR.repeat(4, axis=0).repeat(4, axis=1), "jpeg")


def decode(data: bytes) -> np.ndarray:
    return decode_photo(data, max_pixels=1_000_000).image


@pytest.mark.parametrize(
    "data",
    [
        *(as_bytes(COLOUR, "jpeg", exif=b"Exif\0\0" + exif) for exif in (NEGATIVE, ENDLESS, DIVIDED)),
        as_bytes(COLOUR, "png", exif=NEGATIVE),
        as_bytes(COLOUR, "webp", exif=b"Exif\0\0" + NEGATIVE),
        tiff(COLOUR, (274, 3, 6), (283, 9, 0xFFFFFFF0)),
    ],
)
def test_a_photo_is_turned_upright_whatever_else_its_exif_holds(data):
    assert np.abs(decode(data).astype(int) - np.rot90(COLOUR, -1)).mean() < 8


@pytest.mark.parametrize(
    "data",
    [
        chunked(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(3_000_000))),
        chunked(b"tEXt", b"Comment\0" + b"x" * 66_000_000),
        chunked(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"x" * 3_000_000)),
        chunked(b"iCCP", b"profile\0\0" + zlib.compress(bytes(3_000_000))),
        as_bytes(COLOUR, "jpeg", icc_profile=bytes(3_000_000)),
    ],
    ids=["packed text", "plain text", "XMP", "a colour profile", "a colour profile in a JPEG"],
)
def test_megabytes_of_metadata_do_not_condemn_the_pixels(data):
    assert np.abs(decode(data).astype(int) - COLOUR).mean() < 8


def icc(space: bytes, **tags: list[float]) -> bytes:
    """An ICC profile of monitors (ICC.1:2001-04): tags of three numbers are XYZ, those of one a gamma."""
    body, table = b"", struct.pack(">I", len(tags))
    for name, values in tags.items():
        data = (
            b"XYZ ".ljust(8, b"\0") + struct.pack(">3i", *(round(value * 65536) for value in values))
            if len(values) == 3
            else b"curv".ljust(8, b"\0") + struct.pack(">IHH", 1, round(values[0] * 256), 0)
        )
        table += name.encode() + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(data))
        body += data
    white = struct.pack(">3i", 63190, 65536, 54061)
    head = struct.pack(
        ">I4xI4s4s4s12x4s28x", 132 + len(table) - 4 + len(body), 0x02100000, b"mntr", space, b"XYZ ", b"acsp"
    )
    return (head + white).ljust(128, b"\0") + table + body


WHITE = [0.9642, 1.0, 0.8249]
ADOBE = icc(
    b"RGB ",
    **{"rXYZ": [0.60974, 0.31111, 0.01947], "gXYZ": [0.20528, 0.62567, 0.06087]},
    **{"bXYZ": [0.14919, 0.06322, 0.74457], "wtpt": WHITE},
    **{name: [2.2] for name in ("rTRC", "gTRC", "bTRC")},
)
LINEAR = icc(b"GRAY", wtpt=WHITE, kTRC=[1.0])
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
MUTED = (COLOUR // 2 + 60).astype(np.uint8)


PLAIN = np.repeat(MUTED[..., :1], 3, axis=2)


def profiled(pixels: np.ndarray, mode: str, profile: bytes, kind: str = "png", **options: object) -> bytes:
    """An image whose sRGB colours are written as those of another profile."""
    source, target = (ImageCms.ImageCmsProfile(io.BytesIO(each)) for each in (SRGB, profile))
    inner = "L" if mode in ("L", "LA") else "RGB"
    image = ImageCms.profileToProfile(Image.fromarray(pixels), source, target, outputMode=inner)
    return as_bytes(np.asarray(image.convert(mode)), kind, icc_profile=profile, **options)


@pytest.mark.parametrize(
    ("pixels", "data"),
    [
        pytest.param(MUTED, profiled(MUTED, "RGB", ADOBE), id="Adobe RGB"),
        pytest.param(MUTED, profiled(MUTED, "RGB", ADOBE, "jpeg", quality=98, subsampling=0), id="in a JPEG"),
        pytest.param(MUTED, profiled(MUTED, "RGBA", ADOBE, "webp", lossless=True), id="with transparency"),
        pytest.param(PLAIN, profiled(PLAIN, "L", LINEAR), id="linear gray"),
        pytest.param(PLAIN, profiled(PLAIN, "LA", LINEAR), id="gray with transparency"),
        pytest.param(MUTED, profiled(MUTED, "RGB", SRGB), id="sRGB"),
        pytest.param(COLOUR, as_bytes(COLOUR, "png", icc_profile=LINEAR), id="a profile that does not fit"),
        pytest.param(COLOUR, as_bytes(COLOUR, "png", icc_profile=ADOBE[:200]), id="a damaged profile"),
    ],
)
def test_colours_are_converted_to_srgb(pixels, data):
    assert np.abs(decode(data).astype(int) - pixels).mean() < 1.5


@pytest.mark.parametrize("lost", [1, 2, 4, 8], ids="the last {} bytes".format)
def test_a_jpeg_that_decodes_whole_without_its_end_is_kept_with_a_notice_and_half_a_one_is_refused(lost):
    photo = decode_photo(SMOOTH[:-lost], 1_000_000)
    assert photo.notices == (CUT_SHORT,)
    assert (photo.image != decode(SMOOTH)).any(axis=2).mean() < 0.02
    data = as_bytes(COLOUR, "jpeg", progressive=lost > 2, quality=95)
    with pytest.raises(Refused, match="truncated"):
        decode(data[: len(data) * 2 // 3])


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(tiff((GRAY / 255).astype(np.float32)), id="floats to 1"),
        pytest.param(tiff(GRAY.astype(np.float32)), id="floats to 255"),
        pytest.param(tiff(GRAY.astype(np.uint32)), id="32 bits that use 8"),
        pytest.param(tiff(GRAY.astype(np.int32) * 257), id="32 bits that use 16"),
        pytest.param(tiff(GRAY.astype(np.uint16)), id="16 bits that use 8"),
        pytest.param(tiff(GRAY.astype(np.uint16) * 16), id="16 bits that use 12"),
        pytest.param(as_bytes(GRAY.astype(np.uint16) * 257, "png"), id="a PNG of 16 bits"),
    ],
)
def test_deep_pixels_are_scaled_by_the_range_that_they_use_in_bands(data, monkeypatch):
    monkeypatch.setattr("common.srgb.BAND", 7 * 80)
    assert np.abs(decode(data).astype(int) - GRAY[..., None]).max() <= 2


FLAT = np.full((3000, 4000, 3), 200, np.uint8)


@pytest.mark.parametrize(
    ("make", "result"),
    [
        (lambda: as_bytes(np.tile(GRAY, (50, 50)).astype(np.uint16) * 257, "png"), "decoded"),
        (lambda: chunked(b"tEXt", b"Comment\0" + b"x" * 200_000_000), "decoded"),
        (lambda: as_bytes(FLAT, "jpeg", progressive=True, subsampling=0), "too-large"),
        (lambda: as_bytes(FLAT, "avif", speed=10), "too-large"),
    ],
    ids=["16 bits", "200 MB of text", "a progressive JPEG", "an AVIF"],
)
def test_decoding_takes_eight_bytes_for_each_allowed_pixel_at_most(make, result, tmp_path):
    (tmp_path / "photo").write_bytes(make())
    code = """if True:
        import resource, sys
        from common.images import decode_photo
        from common.photo import Refused
        def most():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        data, before, result = open(sys.argv[1], "rb").read(), most(), "decoded"
        try:
            decode_photo(data, 12_000_000)
        except Refused as refused:
            result = refused.reason
        print(most() - before, result)
    """
    memory, printed = run_python(code, tmp_path / "photo", check=True).stdout.split()
    assert (printed, int(memory) <= 8 * 12_000_000) == (result, True)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tiff(COLOUR.astype(np.uint16)), "almost black"),  # 16 bits that use 8
        (tiff((GRAY / 100).astype(np.float32)), "almost black"),
        (tiff((GRAY / 255 - 1).astype(np.float32)), "values from -0.9"),
        (tiff(np.where(GRAY > 99, np.nan, GRAY).astype(np.float32)), "values from nan"),
        (tiff((COLOUR / 255).astype(np.float32)), "a TIFF of this kind"),
        (tiff(COLOUR, (50706, 1, 0x00000401)), "a raw file"),  # the thumbnail of a DNG
        (tiff(COLOUR, (254, 4, 1)), "a raw file"),  # the thumbnail of a NEF or an ARW
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(99), "a raw file"),
        (b"FUJIFILMCCD-RAW 0201" + bytes(99), "a raw file"),
        (b"\xff\x0a" + bytes(99), "JPEG XL; convert it"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(99), "JPEG XL; convert it"),
    ],
)
def test_what_is_not_read_is_refused_by_name_and_never_black_or_a_thumbnail(data, message):
    with pytest.raises(Refused, match=message) as refused:
        decode(data)
    assert refused.value.reason == "not-read"


def test_photos_of_phones_are_read_as_heic_and_avif():
    heic = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(COLOUR)).save(heic)
    for data in (heic.getvalue(), as_bytes(COLOUR, "avif")):
        assert np.abs(decode(data).astype(int) - COLOUR).mean() < 8


SIDE_FILES = {
    "photo.jpg.json": b'{"title": "photo.jpg"}',
    "photo.txt": b"a caption",
    "photo.xmp": b"<x:xmpmeta>",
    "photo.npy": b"\x93NUMPY",
    "Thumbs.db": b"\xd0\xcf\x11\xe0",
    "clip.mp4": b"\0\0\0\x18ftypmp42",
    "LICENSE": b"Creative Commons",
    "desktop.ini": b"[.ShellClassInfo]",
    "photo.NEF": b"MM\0*, and the same photo is there as a JPEG",
}


def test_side_files_are_counted_in_one_line_and_are_no_failed_photos(tmp_path, capsys):
    root = tmp_path / "in"
    root.mkdir()
    (root / "clip.mp4").write_bytes(b"film")
    with pytest.raises(UserError, match=r"holds no images, only \.mp4 \(1\)"):
        planned(root, tmp_path / "out")
    fill(root, photos := ["photo.jpg", "IMG_0001", "two.png"])
    # A raw file without another copy of its photo is listed.
    for name, data in {**SIDE_FILES, "other.NEF": b"MM\0*"}.items():
        (root / name).write_bytes(data)
    rows = planned(root, tmp_path / "out")
    assert {row["source"]: row["reason"] for row in rows} == dict.fromkeys([*photos, "other.NEF"])
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "no photos" in line)
    assert "9 files are no photos: " in line
    assert all(kind in line for kind in (".json (1)", ".mp4 (1)", ".db (1)", "LICENSE (1)"))
