"""The parser's features in shards: format, verification, and that nothing else of a shard changes."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from common import manifest
from common.classes import NUM_CLASSES
from common.config import Config, load
from common.layout import Layout
from common.parsing.features import pooled_features, projection
from common.parsing.find_parser import find_parser
from common.parsing.parser import load_parser
from common.shards import (
    FEATURE_CHANNELS,
    BrokenSample,
    decode_face,
    decode_features,
    encode_array,
    extent_of,
    read_member,
)
from pipeline.verify.findings import Findings
from pipeline.verify.run import verify
from tests.commands import run_command


def test_every_sample_of_bisenet_has_its_pooled_features(shards: Layout) -> None:
    rows = manifest.read(shards.samples).rows()
    length = 128 + 256 + 512 + 256 + NUM_CLASSES * FEATURE_CHANNELS
    for row in rows:
        pooled = decode_features(read_member(shards.shards, row["shard"], extent_of(row, "pooled.npy")))
        assert (pooled.shape, pooled.dtype) == ((length,), np.float16)


def test_pooled_features_are_means_of_the_projected_map_over_each_class() -> None:
    draws = torch.Generator().manual_seed(0)
    features = torch.randn(1, 70, 4, 4, generator=draws)
    mask = np.repeat(np.repeat([[[0, 1, 1, 4]] * 4], 2, axis=2), 2, axis=1).reshape(1, 8, 8).astype(np.uint8)
    pooled = pooled_features([features], mask)[0]
    assert np.allclose(pooled[:70], features.mean((2, 3)), atol=1e-2)
    by_class = pooled[70:].reshape(NUM_CLASSES, FEATURE_CHANNELS)
    assert np.allclose(by_class[1], features[0, :, :, 1:3].mean((1, 2)) @ projection(70), atol=1e-2)
    assert not by_class[[2, 3, *range(5, NUM_CLASSES)]].any()


def test_stored_features_become_a_table_with_a_row_per_face(shards: Layout, tmp_path: Path) -> None:
    done = run_command("training.embed", "--shards", shards.shards, "--output", tmp_path / "features.parquet")
    assert done.returncode == 0, done.stderr
    table = pq.read_table(tmp_path / "features.parquet")
    columns = ["key", "source", "identity", "split", "pooled", "pooled.classes", "statistics.classes"]
    assert table.column_names == columns
    listed = manifest.read(shards.samples).rows()
    for row in table.to_pylist():
        (stored,) = (each for each in listed if each["key"] == row["key"])
        assert [row[name] for name in columns[:4]] == [stored[name] for name in columns[:4]]
        pooled = decode_features(read_member(shards.shards, stored["shard"], extent_of(stored, "pooled.npy")))
        assert np.array_equal(np.float32(row["pooled"] + row["pooled.classes"]), pooled.astype(np.float32))
        assert len(row["statistics.classes"]) == 11 * NUM_CLASSES
    assert table.num_rows == len(listed)


def test_a_set_with_features_is_whole_until_a_bit_of_one_flips(
    shards: Layout, pipeline_config: Config, tmp_path: Path
) -> None:
    assert not verify(pipeline_config.cluster, shards)
    copy = Layout.at(tmp_path / "copy")
    shutil.copytree(shards.shards, copy.shards)
    row = manifest.read(copy.samples).rows()[0]
    with (copy.shards / row["shard"]).open("r+b") as stream:
        stream.seek(row["pooled.npy.offset"] + row["pooled.npy.size"] - 1)
        stream.write(b"\x7f")
    findings = verify(pipeline_config.cluster, copy)
    assert dict(findings.counts) == {"checksums": 1}
    assert f"{row['key']}.pooled.npy" in findings.table()


def test_features_of_two_lengths_in_one_set_are_found() -> None:
    findings = Findings()
    for length in (4, 5, 4):
        findings.add_shape("features", "pooled.npy", (length,), "k")
    findings.add_unusual_shapes()
    assert dict(findings.counts) == {"features": 1}


@pytest.mark.parametrize(
    "features",
    [
        np.zeros((8, 8, 64), np.float16),
        np.zeros(4, np.float32),
        np.array([np.nan], np.float16),
    ],
)
def test_features_of_another_shape_or_type_or_not_finite_are_refused(features: np.ndarray) -> None:
    with pytest.raises(BrokenSample):
        decode_features(encode_array(features))


def test_the_int8_file_has_the_features_of_float32(portraits: Path) -> None:
    files = sorted((portraits / "img_align_celeba").glob("*.jpg"))[:4]
    faces = np.stack([decode_face(file.read_bytes())[20:198] for file in files])
    pooled = []
    for precision in ("float32", "int8"):
        config = load(settings=[f"parse.precision={precision}"])
        _, _, features = load_parser(find_parser(config.parse, config.weights))(faces)
        pooled.append(features["pooled.npy"].astype(np.float64))
    assert pooled[0].shape == pooled[1].shape
    assert min(np.corrcoef(*pair)[0, 1] for pair in zip(*pooled, strict=True)) > 0.98
