"""What people feed in: label files, folders and pictures of any kind, real files each."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from contract import manifest
from contract.config import Config, load
from contract.errors import UserError
from contract.layout import Layout
from pipeline.align.detector import Face, choose_face
from pipeline.align.warp import FACE_TEMPLATE, central_square, similarity, warp
from pipeline.images import Refused, decode_photo
from pipeline.ingest.listing import read_listing
from pipeline.ingest.plan import ingest


def picture(width: int = 48, height: int = 40, seed: int = 0) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3)).astype(np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decode(data: bytes) -> np.ndarray:
    return decode_photo(data, max_pixels=1_000_000, min_side=32)


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
    ("rows", "said"),
    [
        ("2\nMale Young\n1.jpg -1 1 1\n", "line 3: 3 labels for 2 attributes"),
        ("2\nMale Young\n1.jpg -1 1\n\n2.jpg -1 2\n", "line 5: '2' is none of"),
        ("2\nMale Young\n1.jpg -1 1\n1.jpg -1 1\n", "line 4: a second row for 1.jpg"),
        ("Male Young\n1.jpg -1 1\n", "line 1: the number of images"),
        ("2\nMale Male\n1.jpg -1 1\n", "line 2: attribute names"),
    ],
)
def test_a_malformed_label_file_is_refused_by_file_and_line(tmp_path: Path, rows: str, said: str) -> None:
    with pytest.raises(UserError) as refused:
        read_listing(celeba(tmp_path, rows))
    assert f"list_attr_celeba.txt, {said}" in str(refused.value)


def test_a_malformed_partition_is_refused_by_file_and_line(tmp_path: Path) -> None:
    root = celeba(tmp_path)
    (root / "list_eval_partition.txt").write_text("1.jpg 0\n2.jpg 3\n")
    with pytest.raises(UserError, match="list_eval_partition.txt, line 2: '3' is none of 0, 1, 2"):
        read_listing(root)


def test_labels_of_zero_and_nan_are_unknown_and_rows_without_images_are_said(tmp_path: Path) -> None:
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
        "bad\\xff.jpg": "bad-name",
    }


def test_an_empty_or_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no files"):
        read_listing(tmp_path)
    with pytest.raises(UserError, match="is no folder"):
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


@pytest.mark.parametrize(
    "data",
    [
        encoded(picture(), "png"),
        encoded(picture().convert("L"), "png"),
        encoded(picture().convert("CMYK"), "jpeg"),
        encoded(picture().convert("P"), "png"),
        encoded(picture(), "webp"),
        encoded(picture(), "gif", save_all=True, append_images=[picture(seed=5)]),
    ],
    ids=["png", "gray", "cmyk", "palette", "webp", "animation"],
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


def test_a_rotated_photo_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = decode(encoded(picture(), "png", exif=exif))
    assert np.array_equal(image, np.rot90(np.asarray(picture()), -1))


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
    ],
)
def test_what_cannot_be_used_is_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(Refused) as refused:
        decode(data)
    assert refused.value.reason == reason
    assert refused.value.detail


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


def face(left: float, top: float, right: float, bottom: float) -> Face:
    return Face(np.array([left, top, right, bottom]), 0.99, np.zeros((5, 2)))


@pytest.fixture
def config() -> Config:
    return load()


def test_one_of_several_faces_is_chosen_by_the_policy(config: Config) -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    large, central = face(0, 0, 60, 60), face(90, 40, 110, 60)
    assert choose_face([central, large], image, config.align) is large
    centre = config.align.model_copy(update={"faces": "centre"})
    assert choose_face([large, central], image, centre) is central


def test_no_face_and_a_face_outside_are_refused(config: Config) -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    for faces, reason in (([], "no-face"), ([face(-90, 10, 30, 60)], "face-outside")):
        with pytest.raises(Refused) as refused:
            choose_face(faces, image, config.align)
        assert refused.value.reason == reason
