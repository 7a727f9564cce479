"""What people feed in: label files, folders and pictures of any kind, real files each."""

import hashlib
import io
import os
import struct
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from common import manifest
from common.alignment.crops import aligned_crops
from common.alignment.detector import Face, choose_faces, detect, detect_faces, load_detector
from common.alignment.warp import FACE_TEMPLATE, central_square, similarity, warp
from common.config import PARAMS, Config, load
from common.errors import UserError
from common.images import Refused, decode_photo
from common.layout import Layout
from common.shards import check_key, decode_face, decode_metadata
from common.storage import address
from common.weights import find
from pipeline.align.run import align
from pipeline.ingest.listing import Listing, Source
from pipeline.ingest.run import ingest
from pipeline.inventory import set_input
from pipeline.parse.run import parse
from synthetic import iterate_portraits, write_dataset
from tests.listings import plan_rows, read_listing


def picture(width: int = 48, height: int = 40, seed: int = 0) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3)).astype(np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decode(data: bytes) -> np.ndarray:
    return decode_photo(data, max_pixels=1_000_000).image


def celeba(root: Path, rows: str | None = None, images: tuple[str, ...] = ("1.jpg", "2.jpg")) -> Path:
    (root / "img_align_celeba").mkdir(parents=True)
    for number, name in enumerate(images):
        (root / "img_align_celeba" / name).write_bytes(encoded(picture(seed=number), "jpeg"))
    rows = "2\nMale Young\n1.jpg -1 1\n2.jpg 1 1\n" if rows is None else rows
    (root / "list_attr_celeba.txt").write_text(rows)
    return root


def planned(root: Path, output: Path, *settings: str) -> list[dict[str, object]]:
    ingest(load(settings=[f"data.input={root}", "data.name=d", *settings]), Layout.at(output))
    return manifest.read(Layout.at(output).source).rows()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("2\nMale Young\n1.jpg -1 1 1\n", "line 3: 3 labels for 2 attributes"),
        ("2\nMale Young\n1.jpg -1 1\n\n2.jpg -1 2\n", "line 5: '2' is none of"),
        ("2\nMale Young\n1.jpg -1 1\n1.jpg -1 1\n", "line 4: a second row for 1.jpg"),
        ("Male Young\n1.jpg -1 1\n", "line 1: the number of images"),
        ("2\nMale Male\n1.jpg -1 1\n", "line 2: attribute names"),
    ],
)
def test_a_malformed_label_file_is_refused_by_file_and_line(tmp_path: Path, rows: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        read_listing(celeba(tmp_path, rows))
    assert f"list_attr_celeba.txt, {message}" in str(refused.value)


def test_a_malformed_partition_is_refused_by_file_and_line(tmp_path: Path) -> None:
    root = celeba(tmp_path)
    (root / "list_eval_partition.txt").write_text("1.jpg 0\n2.jpg 3\n")
    with pytest.raises(UserError, match="list_eval_partition.txt, line 2: '3' is none of 0, 1, 2"):
        read_listing(root)


def test_labels_of_zero_and_nan_are_unknown_and_rows_without_images_are_reported(tmp_path: Path) -> None:
    root = celeba(tmp_path / "in", "3\nMale Young\n1.jpg 0 NaN\ngone.jpg 1 1\n")
    rows = {row["source"]: row for row in planned(root, tmp_path / "out")}
    assert rows["img_align_celeba/1.jpg"]["Male"] is None
    assert rows["img_align_celeba/gone.jpg"]["reason"] == "label-without-image"
    assert rows["img_align_celeba/2.jpg"]["reason"] is None
    assert rows["img_align_celeba/2.jpg"]["Young"] is None


def test_a_folder_is_read_recursively_without_hidden_files_or_links_that_leave_it(tmp_path: Path) -> None:
    root = tmp_path / "in"
    (root / "deep" / "er").mkdir(parents=True)
    (tmp_path / "secret.jpg").write_bytes(encoded(picture(seed=9), "jpeg"))
    for number, name in enumerate(("a.jpg", "deep/er/b c.ünï.png", ".hidden.jpg")):
        (root / name).write_bytes(encoded(picture(seed=number), "png"))
    (root / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    (root / "loop").symlink_to(root)
    os.close(os.open(os.fsencode(root) + b"/bad\xff.jpg", os.O_CREAT))
    rows = {row["source"]: row["reason"] for row in planned(root, tmp_path / "out")}
    assert rows == {
        "a.jpg": None,
        "deep/er/b c.ünï.png": None,
        "out.jpg": "link-outside",
        "loop": "link-loop",
        "bad\\xff.jpg": "bad-name",
    }


def test_links_are_judged_by_where_they_lead_and_only_plain_files_are_opened(tmp_path: Path) -> None:
    root, away = tmp_path / "in", tmp_path / "away"
    (root / "real").mkdir(parents=True)
    away.mkdir()
    (root / "real" / "a.jpg").write_bytes(encoded(picture(), "jpeg"))
    for name, target in {
        "same.jpg": "real/a.jpg",
        "round.jpg": "trip.jpg",
        "trip.jpg": "round.jpg",
        "gone.jpg": "nothing.jpg",
        "other": "real",
        "real/up": "..",
        "away": "../away",
    }.items():
        (root / name).symlink_to(target)
    os.mkfifo(root / "pipe.jpg")
    rows = {row["source"]: row["reason"] for row in planned(root, tmp_path / "out")}
    assert rows == {
        "real/a.jpg": None,
        "same.jpg": "duplicate",
        "round.jpg": "link-loop",
        "trip.jpg": "link-loop",
        "gone.jpg": "unreadable",
        "other": "link-folder",
        "real/up": "link-loop",
        "away": "link-outside",
        "pipe.jpg": "not-a-file",
    }


def test_celeba_follows_links_by_the_same_policy(tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(encoded(picture(seed=9), "jpeg"))
    root = celeba(tmp_path / "in")
    (root / "img_align_celeba" / "3.jpg").symlink_to(tmp_path / "secret.jpg")
    rows = {row["source"]: row["reason"] for row in planned(root, tmp_path / "out")}
    assert rows["img_align_celeba/3.jpg"] == "link-outside"
    (root / "img_align_celeba").rename(tmp_path / "elsewhere")
    (root / "img_align_celeba").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="img_align_celeba is a symbolic link that leaves the input folder"):
        read_listing(root)


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root reads everything, so as root the test goes on as nobody for a while."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_files_and_folders_without_permission_are_refused() -> None:
    with TemporaryDirectory() as name:
        base = Path(name)
        base.chmod(0o777)
        root = base / "in"
        (root / "closed").mkdir(parents=True)
        (root / "closed" / "a.jpg").write_bytes(encoded(picture(seed=1), "jpeg"))
        for number, photo in enumerate(("b.jpg", "c.jpg")):
            (root / photo).write_bytes(encoded(picture(seed=2 + number), "jpeg"))
        (root / "b.jpg").chmod(0)
        (root / "closed").chmod(0)
        with unprivileged():
            rows = {row["source"]: row["reason"] for row in planned(root, base / "out")}
        (root / "closed").chmod(0o755)
    assert rows == {"b.jpg": "unreadable", "closed": "unreadable", "c.jpg": None}


def test_images_without_label_and_unknown_labels_are_kept_and_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = ("1.jpg", "2.jpg", "3.jpg", "4.jpg")
    root = celeba(tmp_path / "in", "3\nMale Young\n1.jpg -1 1\n2.jpg 0 1\n3.jpg NaN NaN\n", images)
    rows = {Path(str(row["source"])).name: row["notices"] for row in planned(root, tmp_path / "out")}
    assert rows == {"1.jpg": None, "2.jpg": "unknown-label", "3.jpg": "unknown-label", "4.jpg": "no-label"}
    message = capsys.readouterr().out.split()
    assert (message[message.index("unknown-label") + 1], message[message.index("no-label") + 1]) == ("2", "1")
    (root / "list_attr_celeba.txt").unlink()
    rows = planned(root, tmp_path / "out", "ingest.format=folder")
    assert [row["notices"] for row in rows] == [None] * 4


def test_a_file_that_is_larger_than_any_allowed_picture_is_refused_unread(tmp_path: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    with (root / "film.jpg").open("wb") as stream:
        stream.truncate(1 << 40)
    assert [row["reason"] for row in planned(root, tmp_path / "out")] == ["too-large"]


def test_an_empty_or_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no files"):
        read_listing(tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        read_listing(tmp_path / "none")


def test_duplicates_point_to_the_one_that_is_kept_and_empty_files_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    (root / "a.jpg").write_bytes(b"same")
    (root / "b.jpg").write_bytes(b"same")
    (root / "c.jpg").write_bytes(b"")
    rows = {row["source"]: row for row in planned(root, tmp_path / "out")}
    assert rows["a.jpg"]["key"] is not None
    assert (rows["b.jpg"]["reason"], rows["b.jpg"]["detail"]) == ("duplicate", "same bytes as a.jpg")
    assert rows["c.jpg"]["reason"] == "empty"


def test_drawn_splits_keep_a_person_on_one_side_and_depend_on_the_seed_alone(tmp_path: Path) -> None:
    names = tuple(f"{number}.jpg" for number in range(60))
    rows = "60\nMale\n" + "".join(f"{name} 1\n" for name in names)
    root = celeba(tmp_path / "in", rows, names)
    (root / "identity_CelebA.txt").write_text("".join(f"{name} {i // 3}\n" for i, name in enumerate(names)))
    first = planned(root, tmp_path / "a", "ingest.shard_size=7")
    assert first == planned(root, tmp_path / "b", "ingest.shard_size=7")
    splits: dict[object, set[object]] = {}
    for row in first:
        splits.setdefault(row["identity"], set()).add(row["split"])
    assert all(len(found) == 1 for found in splits.values())
    assert {split for found in splits.values() for split in found} == {"train", "val", "test"}
    sizes: dict[object, int] = {}
    for row in first:
        sizes[row["shard"]] = sizes.get(row["shard"], 0) + 1
    assert max(sizes.values()) == 7
    assert len(planned(root, tmp_path / "c", "ingest.limit=10")) == 10


def test_only_labelled_photos_are_drawn_and_a_person_takes_all_photos_along(tmp_path: Path) -> None:
    names = tuple(f"{number}.jpg" for number in range(40))
    rows = "20\nMale\n" + "".join(f"{name} {(-1, 1, 0)[i % 3]}\n" for i, name in enumerate(names[:20]))
    root = celeba(tmp_path / "in", rows, names)
    (root / "identity_CelebA.txt").write_text("".join(f"{i}.jpg {i % 15}\n" for i in range(30)))
    drawn = planned(root, tmp_path / "out", "ingest.val_fraction=0.3", "ingest.test_fraction=0.3")
    labelled = {row["identity"]: row["split"] for row in drawn if row["Male"] is not None}
    assert set(labelled.values()) == {"train", "val", "test"}
    for row in drawn:
        assert row["split"] == labelled.get(row["identity"], "unlabelled")
    assert sum(row["split"] == "unlabelled" for row in drawn) >= 10


@given(st.text(max_size=140) | st.text("./\\\0 -_aZ09", max_size=12))
@settings(deadline=None, max_examples=200)
def test_a_key_is_refused_or_stays_where_it_is_put(key: str) -> None:
    try:
        check_key(key)
    except ValueError:
        return
    assert Path("folder", f"{key}.jpg").parts == ("folder", f"{key}.jpg")
    assert f"{key}.mask.png".split(".", 1) == [key, "mask.png"]


labels = st.lists(
    st.tuples(st.sampled_from([None, "train", "val", "test"]), st.none() | st.sampled_from("abcdefgh")),
    min_size=1,
    max_size=40,
)


@given(labels, st.integers(0, 3), st.booleans())
@settings(deadline=None, max_examples=150)
def test_nobody_is_ever_in_two_splits(
    described: list[tuple[str | None, str | None]], seed: int, labelled: bool
) -> None:
    names, attributes = (("Male",), (1,)) if labelled else ((), None)
    sources = [
        Source(f"{number:03}.jpg", split, identity, attributes)
        for number, (split, identity) in enumerate(described)
    ]
    hashes = [hashlib.sha256(bytes([number])).hexdigest() for number in range(len(sources))]
    own: dict[str, set[str]] = {}
    for split, identity in described:
        if split and identity:
            own.setdefault(identity, set()).add(split)
    config = load(settings=["data.name=d", f"ingest.seed={seed}", "ingest.shard_size=4"])
    try:
        rows = plan_rows(Listing(sources, names, aligned=False), hashes, config.ingest)
    except UserError as error:
        assert any(len(splits) > 1 for splits in own.values())
        assert "is in two splits" in str(error)
        return
    assert all(len(splits) == 1 for splits in own.values())
    found: dict[str, set[str]] = {}
    for row, (split, identity) in zip(rows, described, strict=True):
        assert split in (None, row["split"])
        if identity:
            found.setdefault(identity, set()).add(row["split"])
    assert all(len(splits) == 1 for splits in found.values())
    assert all(row["shard"].startswith(f"d/{row['split']}-") for row in rows)
    sizes = Counter(row["shard"] for row in rows)
    assert max(sizes.values()) <= 4


def test_a_label_must_not_be_named_like_a_column_of_the_manifests() -> None:
    listing = Listing([Source("a.jpg", attributes=(1,))], ("confidence",), aligned=False)
    with pytest.raises(UserError, match="cannot be named 'confidence'"):
        plan_rows(listing, ["0" * 64], load().ingest)


@pytest.mark.parametrize(
    "data",
    [
        encoded(picture(), "png"),
        encoded(picture().convert("L"), "png"),
        encoded(picture().convert("CMYK"), "jpeg"),
        encoded(picture().convert("P"), "png"),
        encoded(picture(), "webp"),
        encoded(picture(), "gif", save_all=True, append_images=[picture(seed=5)]),
        encoded(picture(), "webp", save_all=True, append_images=[picture(seed=5)], lossless=True),
        cv2.imencode(".png", np.asarray(picture())[..., ::-1].astype(np.uint16) * 257)[1].tobytes(),
    ],
    ids=["png", "gray", "cmyk", "palette", "webp", "animated-gif", "animated-webp", "16-bit-rgb"],
)
def test_pictures_of_all_kinds_become_rgb(data: bytes) -> None:
    image = decode(data)
    assert image.shape == (40, 48, 3)
    assert image.dtype == np.uint8
    gray = np.asarray(picture().convert("L")).astype(int)
    assert np.abs(image.mean(axis=2) - gray).mean() < 20


def test_transparency_is_laid_over_white() -> None:
    clear = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    assert decode(encoded(clear, "png")).min() == 255


def test_sixteen_bits_become_eight() -> None:
    ramp = np.linspace(0, 65535, 40 * 40).reshape(40, 40).astype(np.uint16)
    image = decode(encoded(Image.fromarray(ramp), "png"))
    assert np.abs(image[..., 0].astype(int) - ramp // 257).max() <= 1


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: the picture must be turned by 90 degrees clockwise
    return exif


def test_a_rotated_photo_is_turned_upright() -> None:
    exif = turned()
    image = decode(encoded(picture(), "png", exif=exif))
    assert np.array_equal(image, np.rot90(np.asarray(picture()), -1))


intact = [
    encoded(picture(), "jpeg", exif=turned()),
    encoded(picture(), "jpeg", progressive=True),
    encoded(picture(), "png"),
    encoded(picture().convert("P"), "png"),
    encoded(picture(), "webp"),
    encoded(picture(), "gif"),
    encoded(picture(), "tiff", compression="tiff_lzw"),
    encoded(picture(), "bmp"),
]


@given(st.sampled_from(intact), st.lists(st.tuples(st.integers(0), st.binary(min_size=1, max_size=4))))
@settings(deadline=None, max_examples=200)
def test_damaged_bytes_give_a_picture_or_a_reason_and_never_anything_else(
    data: bytes, changes: list[tuple[int, bytes]]
) -> None:
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


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"a sentence, not a picture", "not-an-image"),
        (encoded(picture(480, 400), "jpeg")[:3000], "truncated"),
        (encoded(picture(480, 400), "png")[:3000], "truncated"),
        (bomb(), "too-large"),
        (encoded(picture(31, 60), "png"), "too-small"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", "not-an-image"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(Refused) as refused:
        decode(data)
    assert refused.value.reason == reason
    assert refused.value.detail


def test_a_decompression_bomb_is_refused_before_it_is_decoded() -> None:
    data = bomb()
    tracemalloc.start()
    with pytest.raises(Refused) as refused:
        decode_photo(data, max_pixels=100_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (refused.value.reason, len(data) < 100, peak < 1_000_000) == ("too-large", True, True)


coordinate = st.floats(-200, 200)


@given(st.floats(0.05, 20), st.floats(-3.1, 3.1), coordinate, coordinate, st.integers(0, 99))
@settings(deadline=None, max_examples=100)
def test_the_transform_between_similar_points_is_recovered(
    scale: float, angle: float, x: float, y: float, seed: int
) -> None:
    points = np.random.default_rng(seed).random((5, 2)) * 100
    matrix = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    target = points @ matrix.T + (x, y)
    found = similarity(points, target)
    assert np.allclose(points @ found[:, :2].T + found[:, 2], target, atol=1e-6 * max(1, scale * 100))


def test_landmarks_that_coincide_have_no_transform() -> None:
    with pytest.raises(ValueError, match="coincide"):
        similarity(np.ones((5, 2)), FACE_TEMPLATE)


def test_the_central_square_is_cut_out_exactly_and_shrinking_does_not_alias() -> None:
    image = np.asarray(picture(60, 40))
    same = warp(image, central_square(60, 40, 40), 40)
    assert np.array_equal(same, image[:, 10:50])
    checks = np.indices((256, 256)).sum(0) % 2 * 255
    board = np.repeat(checks[:, :, None], 3, axis=2).astype(np.uint8)
    shrunk = warp(board, central_square(256, 256, 64), 64)
    assert np.abs(shrunk[4:-4, 4:-4].astype(int) - 127).max() <= 3


def test_a_shrinking_warp_puts_points_where_the_matrix_says() -> None:
    image = np.zeros((400, 300, 3), np.uint8)
    image[200:208, 100:108] = 255
    matrix = central_square(300, 400, 75)
    rows, columns = np.nonzero(warp(image, matrix, 75)[..., 0] > 60)
    expected = matrix[:, :2] @ (103.5, 203.5) + matrix[:, 2]
    assert np.allclose([columns.mean(), rows.mean()], expected, atol=0.3)


@pytest.mark.parametrize("size", [256, 64], ids=["enlarged", "shrunk"])
def test_a_face_that_is_aligned_already_lies_where_its_matrix_says(size: int) -> None:
    image = next(iterate_portraits(1, seed=5)).image
    [crop] = aligned_crops(image, load(settings=[f"align.size={size}"]).align, None)
    warped = warp(image, crop.matrix, size)
    assert np.abs(crop.image.astype(int) - warped)[4:-4, 4:-4].max() <= (1 if size == 256 else 12)


def face(left: float, top: float, right: float, bottom: float) -> Face:
    return Face(np.array([left, top, right, bottom]), 0.99, np.zeros((5, 2)))


@pytest.fixture
def config() -> Config:
    return load()


def test_one_of_several_faces_is_chosen_by_the_policy(config: Config) -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    large, central = face(0, 0, 60, 60), face(90, 40, 110, 60)
    assert choose_faces([central, large], image, config.align)[0] is large
    centre = config.align.model_copy(update={"faces": "centre"})
    assert choose_faces([large, central], image, centre)[0] is central


def test_no_face_and_a_face_outside_are_refused(config: Config) -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    for faces, reason in (([], "no-face"), ([face(-90, 10, 30, 60)], "face-outside")):
        with pytest.raises(Refused) as refused:
            choose_faces(faces, image, config.align)
        assert refused.value.reason == reason


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


def test_every_kind_of_good_file_becomes_a_sample_and_every_bad_one_a_row_with_its_reason(
    tmp_path: Path, config: Config
) -> None:
    write_dataset(tmp_path / "wild", count=1, seed=5, wild=True, workers=1)
    (path,) = (tmp_path / "wild" / "img_celeba").iterdir()
    photo = Image.open(path).convert("RGB")
    detector = load_detector(config.align.detector, find(config.align.detector, config.weights))
    _, top, _, bottom = detect_faces(np.asarray(photo), detector, config.align)[0].box
    good = good_variants(photo)
    bad = {
        "empty": b"",
        "truncated": good["plain.png"][:3000],
        "not-an-image": b"a sentence, not a picture",
        "too-large": bomb(),
        "too-small": encoded(picture(31, 60), "png"),
        "no-face": encoded(picture(200, 200), "png"),
        "face-outside": encoded(photo.crop((0, 0, photo.width, int(top + 0.45 * (bottom - top)))), "png"),
        "duplicate": good["plain.png"],
    }
    root = tmp_path / "in"
    for name, data in [*good.items(), *((f"zz-{reason}.jpg", data) for reason, data in bad.items())]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    settings = [f"data.input={root}", "data.name=d", "cluster.workers=1"]
    run, layout = load(settings=settings), Layout.at(tmp_path / "out")
    ingest(run, layout)
    align(run, layout)
    parse(run, layout)
    refused = {row["source"]: row["reason"] for row in manifest.read(layout.quarantine).rows()}
    assert refused == {f"zz-{reason}.jpg": reason for reason in bad}
    samples = {row["source"]: row for row in manifest.read(layout.samples).rows()}
    assert samples.keys() == good.keys()
    assert len({row["key"] for row in samples.values()}) == len(good)
    faces = {name: sample_face(layout, row) for name, row in samples.items()}
    for name, face in faces.items():
        difference = np.abs(face - faces["plain.png"])
        assert np.median(difference.mean(axis=2) if name == "gray.png" else difference) < 40, name


def test_with_the_policy_all_every_face_of_a_picture_becomes_a_sample_largest_first(tmp_path: Path) -> None:
    write_dataset(tmp_path / "wild", count=1, seed=5, wild=True, workers=1)
    (path,) = (tmp_path / "wild" / "img_celeba").iterdir()
    large = Image.open(path).convert("RGB")
    small = large.copy()
    small.thumbnail((large.width * 2 // 3, large.height * 2 // 3))
    both = Image.new("RGB", (large.width + small.width, large.height), (120, 130, 140))
    both.paste(small, (0, 0))
    both.paste(large, (small.width, 0))
    root = tmp_path / "in"
    root.mkdir()
    both.save(root / "both.png")
    (root / "labels.csv").write_text("path,identity,Male\nboth.png,Ann,1\n")
    settings = [f"data.input={root}", "data.name=d", "cluster.workers=1", "parse.size=64", "align.faces=all"]
    run, layout = load(settings=settings), Layout.at(tmp_path / "out")
    ingest(run, layout)
    align(run, layout)
    parse(run, layout)
    rows = manifest.read(layout.samples).rows()
    first = next(row["key"] for row in manifest.read(layout.source).rows())
    assert [row["key"] for row in sorted(rows, key=lambda row: len(row["key"]))] == [first, f"{first}-2"]
    assert {row["source"] for row in rows} == {"both.png"}
    known = {row["key"]: (row["identity"], row["Male"]) for row in rows}
    assert known == {first: ("Ann", 1), f"{first}-2": (None, None)}, "a bystander has no labels"
    assert [row["notices"] for row in rows] == ["several-faces"] * 2
    asked = load(settings=[*settings, "align.bystander_labels=true"])
    align(asked, layout)
    parse(asked, layout)
    assert [(row["identity"], row["Male"]) for row in manifest.read(layout.samples).rows()] == [
        ("Ann", 1)
    ] * 2
    sides = {}
    for row in rows:
        with (layout.shards / str(row["shard"])).open("rb") as stream:
            stream.seek(row["json.offset"])
            landmarks = np.array(decode_metadata(stream.read(row["json.size"]))["landmarks"])
        sides[row["key"]] = (np.ptp(landmarks, axis=0).max(), landmarks[:, 0].mean() > small.width)
    assert sides[first][1] and not sides[f"{first}-2"][1]
    assert sides[first][0] > sides[f"{first}-2"][0]


def sample_face(layout: Layout, row: dict[str, object]) -> np.ndarray:
    with (layout.shards / str(row["shard"])).open("rb") as stream:
        stream.seek(row["jpg.offset"])
        return decode_face(stream.read(row["jpg.size"])).astype(int)


def test_detection_finds_exactly_what_facexlib_finds(config: Config) -> None:
    detector = load_detector(config.align.detector, find(config.align.detector, config.weights))
    portraits = [portrait.image for portrait in islice(iterate_portraits(4, 2, wild=True), 4)]
    nobody = np.full((200, 240, 3), 90, np.uint8)
    pair = np.hstack([portraits[0][:300, :300], portraits[1][:300, :300]])
    for picture, threshold in ((portraits[2], 0.97), (portraits[3], 0.5), (pair, 0.2), (nobody, 0.97)):
        with torch.inference_mode():
            expected = detector.detect_faces(picture[..., ::-1].copy(), conf_threshold=threshold)
        found = detect(picture, detector, threshold)
        assert found.shape == expected.shape
        assert np.allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize(
    "name", ["photos", "2020", "2021-07-04", "null", "yes", "0x1f", "a: b # c", 'say "hi"', "ünï"]
)
def test_params_are_pointed_at_any_folder_and_nothing_else_in_them_changes(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    params = tmp_path / "params.yaml"
    params.write_bytes(PARAMS.read_bytes())
    set_input(str(tmp_path / name), params)
    lines, edited = PARAMS.read_text().splitlines(), params.read_text().splitlines()
    assert [line.split(":")[0] for line in lines] == [line.split(":")[0] for line in edited]
    changed = [after for before, after in zip(lines, edited, strict=True) if before != after]
    assert [line.split(":")[0] for line in changed] == ["  input", "  name"]
    assert changed[0].endswith(" # folder of photos, table of paths or tars; known layouts are recognised")
    data = yaml.safe_load(params.read_text())["data"]
    assert data["input"] == str(tmp_path / name)
    assert isinstance(data["name"], str)
    first = params.read_bytes()
    set_input(str(tmp_path / name), params)
    assert params.read_bytes() == first


@pytest.mark.parametrize("name", ["faces.csv", "faces.tar", "faces"], ids=["a table", "a tar", "an address"])
def test_params_are_pointed_at_other_inputs_than_folders(name: str, tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    params.write_bytes(PARAMS.read_bytes())
    source = tmp_path / name if "." in name else address(f"memory://{tmp_path.name}/{name}")
    (source if "." in name else source / "a.jpg").write_bytes(b"")
    set_input(str(source), params)
    data = yaml.safe_load(params.read_text())["data"]
    assert data == {"input": str(source), "name": "faces"}


def test_params_are_not_pointed_at_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        set_input(str(tmp_path / "none"), tmp_path / "params.yaml")
