"""Features of a network of the user's own: stored beside the masks, read by the probes, refused by name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from common import manifest
from common.config import Config, load
from common.errors import UserError
from common.layout import Layout
from common.parsing.features import load_embedder
from common.parsing.find_parser import find_embedder
from common.shards import decode_face, decode_features, extent_of, read_member
from pipeline.parse.run import make_sibling, parse
from pipeline.verify.run import verify
from tests.commands import run_command
from training.data.samples import read_samples
from training.models.classifier import load_classifier
from training.models.stored_features import read_features

BLOCKS = (("embedding",), ("embedding", "areas"))

DESCRIPTION: dict[str, Any] = {
    "size": 64,
    "channels": "BGR",
    "layout": "NCHW",
    "scale": 255.0,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "output": 0,
}


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
        batch = {"pixels": {0: "batch"}}
        torch.onnx.export(
            Quadrants(first), example, path, input_names=["pixels"], dynamic_axes=batch, dynamo=False
        )
    else:
        torch.jit.trace(Quadrants(first), example).save(str(path))
    path.with_suffix(".yaml").write_text(yaml.safe_dump(DESCRIPTION | changes))
    return path


def colours(face: np.ndarray) -> np.ndarray:
    """What `Quadrants` says about a face, in the order of its outputs."""
    half = face.shape[0] // 2
    quarters = [face[:half, :half], face[:half, half:], face[half:, :half], face[half:, half:]]
    means = np.array([quarter.mean((0, 1)) for quarter in quarters]) / 127.5 - 1
    return means[:, ::-1].T.ravel()


@pytest.mark.parametrize("suffix", ["onnx", "pt"])
def test_the_network_sees_each_stored_face_and_probes_read_what_it_says(
    suffix: str, shards: Layout, pipeline_config: Config, tmp_path: Path
) -> None:
    network = saved(tmp_path / f"quadrants.{suffix}")
    settings = pipeline_config.parse.model_copy(update={"features_from": str(network)})
    layout = Layout.at(tmp_path / "set")
    parse(pipeline_config.model_copy(update={"parse": settings}), make_sibling(shards, layout))
    for row in manifest.read(layout.samples).rows():
        face, embedding = (
            read_member(layout.shards, row["shard"], extent_of(row, name))
            for name in ("jpg", "embedding.npy")
        )
        assert np.allclose(decode_features(embedding), colours(decode_face(face)), atol=0.01)
    assert not verify(pipeline_config.cluster, layout)
    samples, without = (read_samples(each, ("train",)) for each in (layout, shards))
    stream = pipeline_config.stream
    embeddings, both = (read_features(samples, names, stream) for names in BLOCKS)
    assert embeddings.shape == (len(samples), 12)
    assert np.array_equal(both[:, :12], embeddings)
    assert np.array_equal(both[:, 12:], read_features(without, ("areas",), stream))
    with pytest.raises(UserError, match=r"no embedding\.npy, .* parse\.features_from=NETWORK"):
        read_features(without, ("embedding",), stream)


def test_probes_read_the_features_of_the_network_where_the_shards_hold_them(
    shards: Layout, pipeline_config: Config, tmp_path: Path
) -> None:
    settings = pipeline_config.parse.model_copy(update={"features_from": str(saved(tmp_path / "four.pt"))})
    layout = Layout.at(tmp_path / "set")
    parse(pipeline_config.model_copy(update={"parse": settings}), make_sibling(shards, layout))
    for each, blocks in ((shards, ("pooled",)), (layout, ("embedding", "pooled"))):
        output = tmp_path / f"probes-{len(blocks)}"
        source = ("--shards", str(each.shards), "--output", str(output), "--stage", "finetune")
        done = run_command("training.run", "--methods", "probe", "region_probe", "--labels", "100%", *source)
        assert done.returncode == 0, done.stderr
        probes = [load_classifier(file) for file in sorted(output.glob("finetune/*/classifier.pt"))]
        assert [probe.blocks for probe in probes] == [blocks, (*blocks, "statistics")]


def test_a_map_of_features_is_averaged_over_positions(tmp_path: Path) -> None:
    face = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3)).astype(np.uint8)
    (embedding,) = load_embedder(find_embedder(str(saved(tmp_path / "map.pt", first=3)), load().weights))(
        face
    )
    assert np.allclose(embedding, face[0].mean((0, 1))[::-1] / 127.5 - 1, atol=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": None}, "size must be the side of the network's input in pixels"),
        ({"classes": ["skin"]}, "classes: Extra inputs are not permitted"),
        ({"output": 3}, "has 1 outputs; its description names output 3"),
        ({"first": 2}, r"gives an output of shape \(2, 3, 4\) for 2 faces"),
        (None, "has no description: put one at"),
    ],
)
def test_a_network_that_cannot_be_used_is_refused_by_what_is_wrong(
    change: dict[str, Any] | None, message: str, tmp_path: Path
) -> None:
    network = saved(tmp_path / "network.pt", **(change or {}))
    if change is None:
        network.with_suffix(".yaml").unlink()
    with pytest.raises(UserError, match=message):
        load_embedder(find_embedder(str(network), load().weights))(np.zeros((2, 64, 64, 3), np.uint8))


@pytest.mark.parametrize("suffix", ["onnx", "pt"])
@pytest.mark.parametrize(
    "content", [b"", b"<html></html>", b"PK\3\4 and no more"], ids=["empty", "a web page", "truncated"]
)
def test_a_broken_file_is_refused_in_one_sentence_without_advice(
    suffix: str, content: bytes, tmp_path: Path
) -> None:
    network = saved(tmp_path / f"network.{suffix}")
    network.write_bytes(content)
    with pytest.raises(UserError, match="cannot read it|not a TorchScript file") as refused:
        load_embedder(find_embedder(str(network), load().weights))
    assert "high likelihood" not in str(refused.value) and "weights_only" not in str(refused.value)
    assert len(str(refused.value)) < 300 + len(str(network))


def test_a_file_that_is_missing_is_named_with_its_setting() -> None:
    with pytest.raises(UserError, match=r"nothing\.onnx does not exist; parse\.features_from names it"):
        find_embedder("nothing.onnx", load().weights)
