"""What stage 1 measures on faces that it does not learn from."""

import json

import numpy as np
import pytest
import torch

from common.config import load
from training.data.loader import BrokenSamples
from training.data.samples import read_samples
from training.pretrain.model import PretrainModel, batch_statistics, read_validation_samples, validate
from training.pretrain.tasks.classification import average_precision
from training.pretrain.tasks.segmentation import mean_iou, pixel_accuracy
from training.pretrain.train import pretrain

TINY = [
    *("network.width=8", "network.input_size=32", "pretrain.steps=2", "pretrain.batch_size=4"),
    *("pretrain.log_every=1", "trainer.loader_workers=0", "trainer.precision=float32"),
]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config():
    return load(settings=TINY)


def test_validation_gives_the_same_scores_every_time(config, shards):
    samples, model = read_samples(shards, ("train",)), PretrainModel(config.network, config.pretrain)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = (validate(model, samples, config, CPU, BrokenSamples(0)) for _ in range(2))
    assert first == second
    assert set(first) == {
        "segmentation/pixel_accuracy",
        "segmentation/mean_iou",
        "classification/average_precision",
        "classification/accuracy",
        "rotation/position_accuracy",
        "rotation/angle_accuracy",
    }
    assert all(0 <= value <= 1 for value in first.values())
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_every_validation_face_is_seen_once_and_no_batch_is_tiny(config, shards, monkeypatch):
    samples, model = read_samples(shards, ("train",)), PretrainModel(config.network, config.pretrain)
    batches: list[list[int]] = []
    prepare = PretrainModel.prepare
    monkeypatch.setattr(
        PretrainModel,
        "prepare",
        lambda model, batch, *key: batches.append(batch.indices.tolist()) or prepare(model, batch, *key),
    )
    validate(model, samples, config, CPU, BrokenSamples(0))
    assert sorted(index for batch in batches for index in batch) == list(range(len(samples)))
    assert min(map(len, batches)) >= 4


def test_scores_are_those_of_the_definition():
    confusion = torch.tensor([[[8, 1, 0], [1, 1, 0], [0, 0, 0]], [[0, 1, 0], [0, 2, 0], [0, 0, 0]]])
    assert pixel_accuracy({"confusion": confusion}) == pytest.approx(11 / 14)
    # The third class occurs nowhere.
    assert mean_iou({"confusion": confusion}) == pytest.approx((8 / 11 + 3 / 6) / 2)


def test_average_precision_is_of_the_classes_that_vary():
    targets = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    logits = torch.tensor([[2.0, 0.0, 3.0], [1.0, 0.0, 2.0], [0.0, 0.0, 1.0]])
    expected = (1 + (1 / 2 + 2 / 3) / 2) / 2
    assert average_precision({"targets": targets, "scores": logits}) == pytest.approx(expected)
    assert average_precision({"targets": targets[:1], "scores": logits[:1]}) is None


def test_batch_statistics_neither_read_nor_change_the_running_ones():
    layer = torch.nn.BatchNorm2d(3)
    layer.running_mean = torch.full((3,), 100.0)
    with batch_statistics(layer):
        found = layer(torch.randn(8, 3, 4, 4) * 5 + 7)
    assert found.mean().abs() < 1e-4
    assert torch.equal(layer.running_mean, torch.full((3,), 100.0))
    assert layer.num_batches_tracked == 0
    assert layer.training
    assert layer.track_running_stats


def test_a_set_without_val_faces_is_trained_and_that_is_said_once(
    config, shards, tmp_path, monkeypatch, capsys
):
    real = read_samples
    monkeypatch.setattr(
        "training.pretrain.model.read_samples",
        lambda layout, splits: real(layout, splits).take(np.arange(0)),
    )
    assert len(read_validation_samples(shards)) == 0
    pretrain(config, shards, tmp_path)
    assert capsys.readouterr().out.count("nothing is validated") == 1
    assert "val" not in json.loads((tmp_path / "metrics.json").read_text())
