"""The common: class orders, part counts, shard bytes, manifests and configuration."""

import io
import tarfile
from concurrent.futures import ThreadPoolExecutor
from threading import Thread
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from upath import UPath

from common import manifest
from common.cell_counts import cell_class_counts, cell_edges, dominant_classes, merge_cells
from common.classes import CELEBAMASK_HQ_CLASSES, CLASSES, FLIP_CLASSES, FROM_CELEBAMASK_HQ, NUM_CLASSES
from common.errors import UserError
from common.files import replacing
from common.members import (
    MEMBERS,
    BrokenSample,
    decode_cell_counts,
    decode_face,
    decode_features,
    decode_mask,
    decode_metadata,
    encode_array,
    encode_face,
    encode_mask,
    encode_metadata,
)
from common.progress import progress
from common.shards import Extent, ShardWriter, read_extent, read_member, read_sample, read_shard
from tests import manifests
from tests.listings import encoded, write_tar


def random_mask(seed: int, size: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, NUM_CLASSES, (size, size)).astype(np.uint8)


def members(seed: int = 0, size: int = 24) -> dict[str, bytes]:
    mask = random_mask(seed, size)
    face = np.random.default_rng(seed).integers(0, 256, (size, size, 3)).astype(np.uint8)
    return {
        "jpg": encode_face(face),
        "mask.png": encode_mask(mask),
        "parts.npy": encode_array(cell_class_counts(mask, 4)),
        "json": encode_metadata({"source": "ä b.jpg", "split": "train"}),
    }


def test_both_class_orders_name_the_same_classes_and_the_flip_table_swaps_sides():
    assert [CLASSES[number] for number in FROM_CELEBAMASK_HQ[:NUM_CLASSES]] == list(CELEBAMASK_HQ_CLASSES)
    assert sorted(CLASSES) == sorted(CELEBAMASK_HQ_CLASSES)
    assert CLASSES[FLIP_CLASSES[CLASSES.index("l_eye")]] == "r_eye"
    assert np.array_equal(FLIP_CLASSES[FLIP_CLASSES], np.arange(256))
    assert sum(FLIP_CLASSES[c] != c for c in range(NUM_CLASSES)) == 6


@given(st.integers(0, 10**6), st.integers(1, 40), st.data())
@settings(max_examples=60)
def test_part_counts_equal_a_slow_obvious_reference(seed, size, data):
    grid = data.draw(st.integers(1, size))
    mask = random_mask(seed, size)
    counts = cell_class_counts(mask, grid)
    assert counts.dtype == np.uint16
    edges = [i * size // grid for i in range(grid + 1)]
    assert cell_edges(size, grid).tolist() == edges
    for row, column in np.ndindex(grid, grid):
        cell = mask[edges[row] : edges[row + 1], edges[column] : edges[column + 1]]
        assert counts[row, column].tolist() == np.bincount(cell.ravel(), minlength=NUM_CLASSES).tolist()


def stored_cells(mask: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(cell_class_counts(mask, 12).astype(np.int64))


@given(
    st.integers(0, 10**6),
    st.sampled_from([1, 2, 3, 4, 6, 12]),
    st.integers(12, 60),
    st.integers(1, NUM_CLASSES),
)
@settings(max_examples=60)
def test_stored_counts_give_the_dominant_classes_of_any_patch_as_its_pixels_do(seed, patches, size, top):
    mask = random_mask(seed, size)
    # floor(i * size / 12) at every (12 / patches)-th edge is floor(j * size / patches), for any size.
    merged, counts = merge_cells(stored_cells(mask), patches), cell_class_counts(mask, patches)
    assert merged.tolist() == counts.tolist()
    dominant = dominant_classes(merged, top)
    for row, column in np.ndindex(patches, patches):
        pixels = counts[row, column].tolist()
        largest = sorted(range(NUM_CLASSES), key=lambda number: (-pixels[number], number))[:top]
        expected = {number for number in largest if pixels[number]}
        assert set(np.flatnonzero(dominant[row, column])) == expected


def test_impossible_grids_and_masks_are_refused():
    with pytest.raises(ValueError, match="does not fit"):
        cell_class_counts(random_mask(0, 8), 9)
    with pytest.raises(ValueError, match="whole cells"):
        merge_cells(stored_cells(random_mask(0, 24)), 5)
    with pytest.raises(ValueError, match="square"):
        cell_class_counts(np.zeros((3, 4), np.uint8), 1)
    with pytest.raises(ValueError, match="not a class"):
        cell_class_counts(np.full((4, 4), 19, np.uint8), 1)
    with pytest.raises(ValueError, match="overflow"):
        cell_class_counts(np.zeros((256, 256), np.uint8), 1)


@given(st.integers(0, 10**6), st.integers(16, 48))
@settings(max_examples=30)
def test_masks_and_parts_survive_encoding_exactly_and_faces_keep_their_colours(seed, size):
    mask = random_mask(seed, size)
    assert np.array_equal(decode_mask(encode_mask(mask)), mask)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_mask(mask)))), mask)
    parts = cell_class_counts(mask, 4)
    assert np.array_equal(decode_cell_counts(encode_array(parts)), parts)
    face = np.full((size, size, 3), np.random.default_rng(seed).integers(0, 256, 3), np.uint8)
    for decoded in (decode_face(encode_face(face)), np.asarray(Image.open(io.BytesIO(encode_face(face))))):
        assert np.abs(decoded.astype(int) - face).max() < 6


@given(
    st.dictionaries(
        st.text(max_size=8),
        st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.lists(st.integers()),
    )
)
@settings(max_examples=60)
def test_metadata_survives_encoding_and_equal_metadata_gives_equal_bytes(metadata):
    assert decode_metadata(encode_metadata(metadata)) == metadata
    assert encode_metadata(dict(reversed(metadata.items()))) == encode_metadata(metadata)


def test_members_of_another_kind_are_refused(tmp_path):
    def png(mask: np.ndarray) -> bytes:
        return encoded(Image.fromarray(mask), "png")

    pickled = io.BytesIO()
    np.save(pickled, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    for decode, data in (
        (decode_face, b""),
        (decode_face, b"no picture"),
        (decode_mask, b"\x89PNG"),
        (decode_mask, png(np.full((4, 4), 300, np.uint16))),
        (decode_mask, png(np.full((4, 4), 19, np.uint8))),
        (decode_cell_counts, b"\x93NUMPY"),
        (decode_cell_counts, pickled.getvalue()),
        (decode_cell_counts, encode_array(np.zeros((2, 2, 19), np.uint16)).replace(b"<u2", b"<i2")),
        (decode_features, encode_array(np.zeros((8, 8, 64), np.float16))),
        (decode_features, encode_array(np.zeros(4, np.float32))),
        (decode_features, encode_array(np.array([np.nan], np.float16))),
        (decode_metadata, b"{"),
        (decode_metadata, b"[1]"),
    ):
        with pytest.raises(BrokenSample):
            decode(data)
    write_tar(tmp_path / "x.tar", {"k.pkl": b"x"})
    with pytest.raises(BrokenSample, match=r"k\.pkl"):
        list(read_shard(tmp_path / "x.tar"))


def test_a_member_is_read_alike_from_a_folder_and_from_an_address(tmp_path):
    with ShardWriter(tmp_path / "toy.tar") as writer:
        writer.add("first", members(0))
        extents = writer.add("second", members(1))
    remote, row = UPath("memory://read-member"), {"shard": "toy.tar"}
    (remote / "toy.tar").write_bytes((tmp_path / "toy.tar").read_bytes())
    for name, extent in extents.items():
        row |= {f"{name}.offset": extent.offset, f"{name}.size": extent.size}
    for root in (tmp_path, remote):
        assert read_member(root, "toy.tar", extents["jpg"]) == members(1)["jpg"]
        assert read_sample(root, row) == members(1)
        with pytest.raises(BrokenSample, match=r"toy\.tar"):
            read_member(root, "toy.tar", Extent(10**6, 5))


@given(st.lists(st.text("abcXYZ019_-", min_size=1, max_size=12), min_size=1, max_size=4, unique=True))
@settings(max_examples=20)
def test_extents_point_at_the_exact_bytes(tmp_path_factory, keys):
    path = tmp_path_factory.mktemp("tar") / "train-000000.tar"
    with ShardWriter(path) as writer:
        extents = {key: writer.add(key, members(number)) for number, key in enumerate(keys)}
    with tarfile.open(path) as tar:
        entries = {entry.name: entry for entry in tar.getmembers()}
    assert list(entries) == [f"{key}.{name}" for key in keys for name in MEMBERS]
    with path.open("rb") as file:
        for number, key in enumerate(keys):
            for name, content in members(number).items():
                extent = extents[key][name]
                assert (extent.offset, extent.size) == (entries[f"{key}.{name}"].offset_data, len(content))
                assert read_extent(file.fileno(), extent, "here") == content
        with pytest.raises(BrokenSample, match="here"):
            read_extent(file.fileno(), Extent(path.stat().st_size, 5), "here")
    assert list(read_shard(path)) == [(key, members(number)) for number, key in enumerate(keys)]


def test_equal_samples_give_equal_bytes_at_any_time(tmp_path, monkeypatch):
    paths = [tmp_path / f"{number}.tar" for number in range(2)]
    for path, now in zip(paths, (1.0e9, 1.7e9), strict=True):
        monkeypatch.setattr("time.time", lambda now=now: now)
        with ShardWriter(path) as writer:
            for number in range(3):
                writer.add(f"k{number}", members(number))
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize("key", ["a.b", "../up", "a/b", "", "ä", "a b"])
def test_a_key_cannot_climb_out_or_hold_a_dot(tmp_path, key):
    with pytest.raises(ValueError, match="is not a sample key"), ShardWriter(tmp_path / "x.tar") as writer:
        writer.add(key, members())
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_nothing_half_written(tmp_path):
    with pytest.raises(RuntimeError), ShardWriter(tmp_path / "x.tar") as writer:
        writer.add("k", members())
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    old = tmp_path / "old.txt"
    old.write_text("old")
    with pytest.raises(RuntimeError), replacing(old) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("old.txt", "old")]


def test_manifests_come_back_as_they_were_written(tmp_path):
    rows = [{"source": "a.jpg", "key": "k", "Male": 1}, {"source": "b.jpg", "reason": "empty", "Male": None}]
    for name in ("one", "two"):
        manifests.write(tmp_path / name, manifest.SOURCE_FIELDS, rows, ("Male",), {"dataset": "d"})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    found = manifest.read(tmp_path / "one")
    assert found.attributes == ("Male",)
    assert found.metadata == {"dataset": "d"}
    assert [row["Male"] for row in found.rows()] == [1, None]
    with pytest.raises(UserError, match="pipeline.parse"):
        manifest.read(tmp_path / "none")
    (tmp_path / "junk").write_text("junk")
    with pytest.raises(UserError, match="no readable manifest"):
        manifest.read(tmp_path / "junk")


def test_a_thread_whose_progress_cannot_be_printed_blocks_no_other(monkeypatch, capsys):
    bar = progress("parse", 10, "faces")
    bar.update(4)
    with monkeypatch.context() as patch, ThreadPoolExecutor(1) as pool:
        patch.setattr(bar, "sp", Mock(side_effect=BrokenPipeError))
        assert isinstance(pool.submit(bar.refresh).exception(), BrokenPipeError)
    other = Thread(target=bar.close, daemon=True)
    other.start()
    other.join(600)
    assert not other.is_alive()
    assert capsys.readouterr().err.startswith("parse: 4 of 10 faces, ")
