"""The parser's features in shards: format, verification, and that nothing else of a shard changes."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from common import manifest
from common.config import Config, load
from common.errors import UserError
from common.layout import Layout
from common.shards import (
    MEMBERS,
    BrokenSample,
    decode_face,
    decode_features,
    decode_mask,
    encode_features,
    extent_of,
    read_member,
    read_sample,
    read_shard,
)
from pipeline.parse.features import projection
from pipeline.parse.find_parser import find_parser
from pipeline.parse.parser import load_parser
from pipeline.verify.findings import Findings
from pipeline.verify.run import verify

PARSER_FEATURES = ("pooled.npy", "features.npy")


def test_features_follow_the_other_members_which_stay_what_they_were(
    shards: Layout, feature_shards: Layout
) -> None:
    plain, rich = (manifest.read(layout.samples).rows() for layout in (shards, feature_shards))
    assert [row["key"] for row in plain] == [row["key"] for row in rich]
    for one, other in zip(plain, rich, strict=True):
        before, after = read_sample(shards.shards, one), read_sample(feature_shards.shards, other)
        assert list(before) == list(after) == list(MEMBERS)
        assert before["jpg"] == after["jpg"]
        masks = [decode_mask(members["mask.png"]) for members in (before, after)]
        assert np.mean(masks[0] == masks[1]) > 0.95  # plain shards may be parsed in int8
        pooled, grid = (
            decode_features(read_member(feature_shards.shards, other["shard"], extent_of(other, name)))
            for name in PARSER_FEATURES
        )
        assert (pooled.ndim, pooled.dtype, grid.shape) == (1, np.float16, (8, 8, 64))
    assert "pooled.npy.offset" not in plain[0]


def test_the_grid_averages_to_the_pooled_features_of_the_whole_map(feature_shards: Layout) -> None:
    path = next((feature_shards.shards / "portraits").glob("*.tar"))
    for _, members in read_shard(path):
        pooled, grid = (decode_features(members[name]).astype(np.float32) for name in PARSER_FEATURES)
        fused = pooled[128 + 256 + 512 :][:256]
        assert np.allclose(fused @ projection(256).numpy(), grid.mean((0, 1)), atol=0.01)


def test_a_set_with_features_is_whole_until_a_bit_of_one_flips(
    feature_shards: Layout, pipeline_config: Config, tmp_path: Path
) -> None:
    assert not verify(pipeline_config.cluster, feature_shards)
    copy = Layout.at(tmp_path / "copy")
    shutil.copytree(feature_shards.shards, copy.shards)
    row = manifest.read(copy.samples).rows()[0]
    with (copy.shards / row["shard"]).open("r+b") as stream:
        stream.seek(row["features.npy.offset"] + row["features.npy.size"] - 1)
        stream.write(b"\x7f")
    findings = verify(pipeline_config.cluster, copy)
    assert dict(findings.counts) == {"checksums": 1}
    assert f"{row['key']}.features.npy" in findings.table()


def test_features_of_two_lengths_in_one_set_are_found() -> None:
    findings = Findings()
    for length in (4, 5, 4):
        findings.add_shape("features", "pooled.npy", (length,), "k")
    findings.add_unusual_shapes()
    assert dict(findings.counts) == {"features": 1}


@pytest.mark.parametrize(
    "features",
    [
        np.zeros((8, 8, 63), np.float16),
        np.zeros(4, np.float32),
        np.array([np.nan], np.float16),
    ],
)
def test_features_of_another_shape_or_type_or_not_finite_are_refused(features: np.ndarray) -> None:
    with pytest.raises(BrokenSample):
        decode_features(encode_features(features))


def test_a_parser_without_features_says_so() -> None:
    config = load(settings=["parse.parser=parsenet", "parse.features=grid"])
    with pytest.raises(UserError, match=r"parse\.features=grid needs parse\.parser=bisenet"):
        find_parser(config.parse, config.weights)


def test_the_int8_file_has_the_features_of_float32(portraits: Path) -> None:
    files = sorted((portraits / "img_align_celeba").glob("*.jpg"))[:4]
    faces = np.stack([decode_face(file.read_bytes())[20:198] for file in files])
    pooled = []
    for precision in ("float32", "int8"):
        config = load(settings=["parse.features=pooled", f"parse.precision={precision}"])
        _, _, features = load_parser(find_parser(config.parse, config.weights))(faces)
        pooled.append(features["pooled.npy"].astype(np.float64))
    assert pooled[0].shape == pooled[1].shape
    assert min(np.corrcoef(*pair)[0, 1] for pair in zip(*pooled, strict=True)) > 0.98
