"""Pictures of any kind become faces, upright and found in crowds, or are refused with a reason."""

import io
import struct
import zlib
from itertools import islice

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from common import images, manifest
from common.alignment.crops import aligned_crops, find_faces
from common.alignment.detector import FIRST_SIDE, Face, choose_faces, detect, detect_faces, load_detector
from common.alignment.warp import FACE_TEMPLATE, central_square, similarity, warp
from common.config import Config, load
from common.images import decode_photo
from common.layout import Layout
from common.members import decode_face, decode_metadata
from common.photo import Refused
from common.shards import extent_of, read_member
from common.weights import find
from pipeline.align.run import align
from pipeline.ingest.run import ingest
from pipeline.parse.run import parse
from synthetic import iterate_portraits
from tests.conftest import run_pipeline
from tests.listings import encoded, picture

pytestmark = pytest.mark.usefixtures("workers")


def decode(data: bytes) -> np.ndarray:
    return decode_photo(data, max_pixels=1_000_000).image


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: the picture must be turned by 90 degrees clockwise
    return exif


intact = [
    *(encoded(picture(), "jpeg", **options) for options in ({"exif": turned()}, {"progressive": True})),
    *(encoded(picture(), kind) for kind in ("png", "webp", "gif", "bmp")),
    encoded(picture().convert("P"), "png"),
    encoded(picture(), "tiff", compression="tiff_lzw"),
]


def test_transparency_is_laid_over_white_and_a_program_for_printers_is_not_run():
    clear = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    assert decode(encoded(clear, "png")).min() == 255
    with pytest.raises(Refused, match="not-an-image"):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n")


@given(st.sampled_from(intact), st.lists(st.tuples(st.integers(0), st.binary(min_size=1, max_size=4))))
@settings(max_examples=200)
def test_damaged_bytes_give_a_picture_or_a_reason_and_never_anything_else(data, changes):
    damaged = bytearray(data)
    for position, change in changes:
        start = position % len(damaged)
        damaged[start : start + len(change)] = change
    try:
        assert decode(bytes(damaged)).ndim == 3
    except Refused as refused:
        assert refused.reason in ("truncated", "not-an-image", "too-large", "too-small", "not-read")


def bomb() -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


ALIGN = load(settings=["align.mode=detect"]).align
coordinate = st.floats(-200, 200)


@given(st.floats(0.05, 20), st.floats(-3.1, 3.1), coordinate, coordinate, st.integers(0, 99))
@settings(max_examples=100)
def test_the_transform_between_similar_points_is_recovered(scale, angle, x, y, seed):
    points = np.random.default_rng(seed).random((5, 2)) * 100
    matrix = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    target = points @ matrix.T + (x, y)
    found = similarity(points, target)
    assert np.allclose(points @ found[:, :2].T + found[:, 2], target, atol=1e-6 * max(1, scale * 100))
    with pytest.raises(ValueError, match="coincide"):
        similarity(np.ones((5, 2)), points)


def test_the_central_square_is_cut_out_exactly_and_shrinking_does_not_alias():
    image = np.asarray(picture(60, 40))
    same = warp(image, central_square(60, 40, 40), 40)
    assert np.array_equal(same, image[:, 10:50])
    checks = np.indices((256, 256)).sum(0) % 2 * 255
    board = np.repeat(checks[:, :, None], 3, axis=2).astype(np.uint8)
    shrunk = warp(board, central_square(256, 256, 64), 64)
    assert np.abs(shrunk[4:-4, 4:-4].astype(int) - 127).max() <= 3


@pytest.mark.parametrize("size", [256, 64], ids=["enlarged", "shrunk"])
def test_a_face_that_is_aligned_already_lies_where_its_matrix_says(size):
    image = next(iterate_portraits(1, seed=5)).image
    [crop] = aligned_crops(image, load(settings=[f"align.size={size}"]).align, None)
    warped = warp(image, crop.matrix, size)
    assert np.abs(crop.image.astype(int) - warped)[4:-4, 4:-4].max() <= (1 if size == 256 else 12)


def face(left: float, top: float, right: float, bottom: float) -> Face:
    return Face(np.array([left, top, right, bottom]), 0.99, np.zeros((5, 2)))


def test_one_of_several_faces_is_chosen_by_the_policy_and_none_or_one_outside_is_refused():
    image, large, central = np.zeros((100, 200, 3), np.uint8), face(0, 0, 60, 60), face(90, 40, 110, 60)
    for policy, chosen in (("largest", large), ("centre", central)):
        for faces in ([central, large], [large, central]):
            assert choose_faces(faces, image, ALIGN.model_copy(update={"faces": policy}))[0] is chosen
    for faces, reason in (([], "no-face"), ([face(-90, 10, 30, 60)], "face-outside")):
        with pytest.raises(Refused, match=reason):
            choose_faces(faces, image, ALIGN)


def good_variants(photo: Image.Image) -> dict[str, bytes]:
    """One photo in every form that is converted and kept, by file name."""
    clear = photo.copy()
    clear.putalpha(Image.linear_gradient("L").resize(photo.size).point(lambda value: 255 - value // 8))
    wide = np.asarray(photo)[..., ::-1].astype(np.uint16) * 257
    return {
        "plain.png": encoded(photo, "png"),
        "gray.png": encoded(photo.convert("L"), "png"),
        "print.jpg": encoded(photo.convert("CMYK"), "jpeg", quality=95),
        "palette.png": encoded(photo.convert("P", palette=Image.Palette.ADAPTIVE), "png"),
        "clear.png": encoded(clear, "png"),
        "wide.png": cv2.imencode(".png", wide)[1].tobytes(),
        "web.webp": encoded(photo, "webp", lossless=True),
        "says-gif-is.png.gif": encoded(photo, "jpeg", quality=95),
        "turned.jpg": encoded(photo.transpose(Image.Transpose.ROTATE_90), "jpeg", exif=turned(), quality=96),
        "moves.webp": encoded(photo, "webp", save_all=True, append_images=[picture(*photo.size)], quality=99),
        "a name. with.dots and spaces.jpg": encoded(photo, "jpeg", quality=97),
        "имя/名前 🙂.jpg": encoded(photo, "jpeg", quality=98),
    }


@pytest.fixture(scope="module")
def wild():
    """A photo in which a face lies anywhere."""
    return Image.fromarray(next(iterate_portraits(1, seed=5, wild=True)).image)


def test_every_kind_of_good_file_becomes_a_sample_and_every_bad_one_a_row_with_its_reason(wild, tmp_path):
    good = good_variants(wild)
    bad = {
        "empty": b"",
        "truncated": good["plain.png"][:3000],
        "not-an-image": b"a sentence, not a picture",
        "too-large": bomb(),
        "too-small": encoded(picture(31, 60), "png"),
        "no-face": encoded(picture(200, 200), "png"),
        "duplicate": good["plain.png"],
    }
    root = tmp_path / "in"
    for name, data in [*good.items(), *((f"zz-{reason}.jpg", data) for reason, data in bad.items())]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    settings = [f"data.input={root}", "data.name=d", "cluster.workers=1", "parse.size=64"]
    layout = Layout.at(tmp_path / "out")
    run_pipeline(load(settings=settings), layout)
    refused = {row["source"]: row["reason"] for row in manifest.read(layout.quarantine).rows()}
    assert refused == {f"zz-{reason}.jpg": reason for reason in bad}
    samples = {row["source"]: row for row in manifest.read(layout.samples).rows()}
    assert samples.keys() == good.keys()
    assert len({row["key"] for row in samples.values()}) == len(good)
    faces = {
        name: decode_face(read_member(layout.shards, row["shard"], extent_of(row, "jpg"))).astype(int)
        for name, row in samples.items()
    }
    for name, face in faces.items():
        difference = np.abs(face - faces["plain.png"])
        assert np.median(difference.mean(axis=2) if name == "gray.png" else difference) < 40, name


def test_with_the_policy_all_every_face_of_a_picture_becomes_a_sample_largest_first(wild, tmp_path):
    small = wild.resize((wild.width * 2 // 3, wild.height * 2 // 3))
    both = Image.new("RGB", (wild.width + small.width, wild.height), (120, 130, 140))
    both.paste(small, (0, 0))
    both.paste(wild, (small.width, 0))
    (root := tmp_path / "in").mkdir()
    both.save(root / "both.png")
    (root / "labels.csv").write_text("path,identity,Male\nboth.png,Ann,1\n")
    settings = [f"data.input={root}", "data.name=d", "cluster.workers=1", "parse.size=64", "align.faces=all"]
    layout = Layout.at(tmp_path / "out")

    def labels(run: Config) -> dict[str, tuple[object, object]]:
        align(run, layout)
        parse(run, layout)
        return {row["key"]: (row["identity"], row["Male"]) for row in manifest.read(layout.samples).rows()}

    ingest(load(settings=settings), layout)
    first = manifest.read(layout.source).rows()[0]["key"]
    second = f"{first}-2"
    assert labels(load(settings=settings)) == {first: ("Ann", 1), second: (None, None)}, "of a bystander"
    sides = {}
    for row in manifest.read(layout.samples).rows():
        assert (row["source"], row["notices"]) == ("both.png", "several-faces")
        metadata = decode_metadata(read_member(layout.shards, row["shard"], extent_of(row, "json")))
        landmarks = np.array(metadata["landmarks"])
        sides[row["key"]] = (np.ptp(landmarks, axis=0).max(), landmarks[:, 0].mean() > small.width)
    assert (sides[first][1], sides[second][1]) == (True, False)
    assert sides[first][0] > sides[second][0]
    asked = load(settings=[*settings, "align.bystander_labels=true"])
    assert labels(asked) == {first: ("Ann", 1), second: ("Ann", 1)}


def test_detection_finds_exactly_what_facexlib_finds(detector):
    portraits = [portrait.image for portrait in islice(iterate_portraits(4, 2, wild=True), 4)]
    nobody = np.full((200, 240, 3), 90, np.uint8)
    pair = np.hstack([portraits[0][:300, :300], portraits[1][:300, :300]])
    for image, threshold in ((portraits[2], 0.97), (portraits[3], 0.5), (pair, 0.2), (nobody, 0.97)):
        with torch.inference_mode():
            expected = detector.detect_faces(image[..., ::-1].copy(), conf_threshold=threshold)
        found = detect(image, detector, threshold)
        assert found.shape == expected.shape and np.allclose(found, expected, atol=1e-3)


@pytest.fixture(scope="module")
def detector():
    return load_detector(ALIGN.detector, find(ALIGN.detector, load().weights))


@pytest.fixture(scope="module")
def painted():
    """Photos by whether their face lies anywhere and is tilted."""
    return {wild: [each.image for each in iterate_portraits(4, 3, wild=wild)] for wild in (False, True)}


def rotated(image: np.ndarray, degrees: int) -> tuple[np.ndarray, np.ndarray]:
    """A photo turned clockwise, and the matrix from its pixels to those of the result."""
    height, width = image.shape[:2]
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    size = [round(abs(width * cos) + abs(height * sin)), round(abs(width * sin) + abs(height * cos))]
    linear = np.array([[cos, -sin], [sin, cos]])
    shift = (np.array(size) - 1) / 2 - linear @ ((np.array([width, height]) - 1) / 2)
    matrix = np.column_stack([linear, shift])
    return cv2.warpAffine(image, matrix, size, borderValue=(128, 128, 128)), matrix


@pytest.mark.parametrize("degrees", [90, 135, 180, 270], ids="turned by {} degrees".format)
def test_a_face_is_aligned_upright_however_its_photo_lies(degrees, painted, detector):
    for image in painted[True]:
        landmarks = choose_faces(detect_faces(image, detector, ALIGN), image, ALIGN)[0].landmarks
        photo, matrix = rotated(image, degrees)
        (crop,) = aligned_crops(photo, ALIGN, detector)
        seen = landmarks @ matrix[:, :2].T + matrix[:, 2]
        seen = (seen @ crop.matrix[:, :2].T + crop.matrix[:, 2]) / ALIGN.size
        assert np.abs(seen - FACE_TEMPLATE).max() < 0.1


def crowd(portraits: list[np.ndarray], rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """A photo of 300 x 333 pixels for each of many faces of 50 pixels, and their centres."""
    photo = np.full((rows * 333, columns * 300, 3), (140, 150, 130), np.uint8)
    centres = []
    for number in range(rows * columns):
        portrait = cv2.resize(portraits[number % len(portraits)], None, fx=0.5, fy=0.5)
        height, width = portrait.shape[:2]
        top, left = number // columns * 333 + 100, number % columns * 300 + 90
        photo[top : top + height, left : left + width] = portrait
        centres.append((left + width / 2, top + height / 2))
    return photo, np.array(centres)


def test_everyone_in_a_group_photo_is_found_once(painted, detector):
    everyone = ALIGN.model_copy(update={"faces": "all"})
    photo, centres = crowd(painted[False], rows=6, columns=10)
    assert not detect_faces(photo, detector, everyone)
    found = [face.box.reshape(2, 2).mean(axis=0) for face in find_faces(photo, detector, everyone)]
    distances = np.linalg.norm(np.array(found)[:, None] - centres[None], axis=2)
    assert len(found) == 60
    assert (distances.min(axis=0) < 30).all()


def test_a_tiny_picture_without_a_face_is_refused_with_what_to_do(detector):
    with pytest.raises(Refused, match="--align none"):
        aligned_crops(np.full((48, 48, 3), 128, np.uint8), ALIGN, detector)
    with pytest.raises(Refused) as refused:
        aligned_crops(np.full((480, 480, 3), 128, np.uint8), ALIGN, detector)
    assert "--align" not in refused.value.detail


@pytest.mark.parametrize("orientation", [*images.UPRIGHT], ids="EXIF orientation {}".format)
def test_a_large_jpeg_gives_the_crop_of_its_full_picture_from_a_reduced_one(orientation, painted, detector):
    upright = cv2.resize(painted[False][0], (1780, 2180), interpolation=cv2.INTER_CUBIC)
    upright = cv2.copyMakeBorder(upright, 300, 301, 400, 426, cv2.BORDER_CONSTANT, value=(90, 110, 140))
    turns, mirrored = images.UPRIGHT[orientation]
    exif, stream = Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.Orientation] = orientation
    filed = Image.fromarray(np.rot90(upright, -turns)[:, :: -1 if mirrored else 1])
    filed.save(stream, "jpeg", quality=92, subsampling=0, exif=exif)
    full = images.decode_photo(stream.getvalue(), 10**8).image
    photo = images.decode_photo(stream.getvalue(), 10**8, FIRST_SIDE)
    eighth = photo.view(8.9)
    (height, width), (left, top) = eighth.pixels.shape[:2], eighth.corner
    blocks = full[top : top + 8 * height, left : left + 8 * width].reshape(height, 8, width, 8, 3)
    assert photo.shape == full.shape[:2] and (height, width) == (2781 // 8, 2606 // 8)
    assert np.abs(blocks.mean((1, 3)) - eighth.pixels).max() < 4
    (expected,), (crop,) = aligned_crops(full, ALIGN, detector), aligned_crops(photo, ALIGN, detector)
    assert expected.face is not None and crop.face is not None
    moved = (crop.face.landmarks - expected.face.landmarks) @ expected.matrix[:, :2].T
    assert np.abs(moved).max() < 1
    assert np.abs(crop.image.astype(int) - expected.image).mean() < 2
