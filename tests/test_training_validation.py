"""What stage 1 measures and draws of faces that it does not learn from."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from common.config import Config, load
from common.errors import UserError
from common.layout import Layout
from training.data.samples import read_samples
from training.engine.batch_norm import batch_statistics
from training.engine.logger import Log
from training.pretrain.model import PretrainModel
from training.pretrain.train import pretrain
from training.pretrain.validate import answers, segmentation_scores, validate, validation_faces
from training.pretrain.visualize import tasks_picture

TINY = [
    "network.width=8",
    "network.input_size=32",
    "pretrain.steps=2",
    "pretrain.batch_size=4",
    "pretrain.log_every=1",
    "pretrain.batch_norm_batches=1",
    "pretrain.loader_workers=0",
    "pretrain.precision=float32",
]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config() -> Config:
    return load(settings=TINY)


def test_validation_gives_the_same_scores_whenever_it_is_asked(config: Config, shards: Layout) -> None:
    faces = read_samples(shards, ("train",))
    model = PretrainModel(config)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = (validate(model, faces, config, CPU) for _ in range(2))
    assert first == second
    assert set(first) == {
        "pixel_accuracy",
        "mean_iou",
        "average_precision",
        "tile_accuracy",
        "angle_accuracy",
    }
    assert all(0 <= value <= 1 for value in first.values())
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_every_validation_face_is_seen_once_and_no_batch_is_tiny(config: Config, shards: Layout) -> None:
    faces = read_samples(shards, ("train",))
    batches = [batch.indices.tolist() for batch, _, _ in answers(PretrainModel(config), faces, config, CPU)]
    assert sorted(index for batch in batches for index in batch) == list(range(len(faces)))
    assert min(len(batch) for batch in batches) >= 4


def test_scores_are_those_of_the_definition() -> None:
    confusion = np.array([[8, 2, 0], [1, 3, 0], [0, 0, 0]])  # the third class occurs nowhere
    found = segmentation_scores(confusion)
    assert found["pixel_accuracy"] == pytest.approx(11 / 14)
    assert found["mean_iou"] == pytest.approx((8 / 11 + 3 / 6) / 2)


def test_batch_statistics_neither_read_nor_change_the_running_ones() -> None:
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
    config: Config,
    shards: Layout,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = read_samples
    monkeypatch.setattr(
        "training.pretrain.validate.read_samples",
        lambda layout, splits: real(layout, splits).take(np.arange(0)),
    )
    assert validation_faces(config, shards) is None
    pretrain(config, shards, tmp_path)
    assert capsys.readouterr().out.count("nothing is validated") == 1
    assert "val" not in json.loads((tmp_path / "metrics.json").read_text())


@pytest.mark.parametrize(
    "tasks",
    [
        "{segmentation: 1, classification: 1, rotation: 1, angle: 1, agreement: 1}",
        "{segmentation: 1, classification: 0, rotation: 0, angle: 0, agreement: 0}",
        "{segmentation: 0, classification: 0, rotation: 1, angle: 0, agreement: 0}",
    ],
)
def test_the_picture_shows_a_row_per_face_and_only_the_tasks_that_train(shards: Layout, tasks: str) -> None:
    config = load(settings=[*TINY, f"pretrain.tasks={tasks}"])
    faces = read_samples(shards, ("train",))
    model = PretrainModel(config)
    pictures = [tasks_picture(*next(answers(model, faces, config, CPU)), config) for _ in range(2)]
    assert pictures[0].dtype == np.uint8
    assert np.array_equal(*pictures)
    assert pictures[0].shape[0] > 4 * 156


def test_green_marks_an_answer_that_agrees_and_orange_one_that_does_not(
    config: Config, shards: Layout
) -> None:
    faces = read_samples(shards, ("train",))
    batch, labels, outputs = next(answers(PretrainModel(config), faces, config, CPU))
    perfect = torch.nn.functional.one_hot(labels.turned.tile, 9).float()
    angle = torch.nn.functional.one_hot(labels.turned.angle, 4).float()
    right = replace(outputs, tile=perfect, angle=angle, classification={})
    wrong = replace(right, tile=perfect.roll(1, dims=1))

    def orange(picture: np.ndarray) -> int:
        return int((picture == (225, 90, 20)).all(-1).sum())

    assert orange(tasks_picture(batch, labels, right, config)) == 0
    assert orange(tasks_picture(batch, labels, wrong, config)) > 400


def test_a_run_logs_pictures_and_tensorboard_events(shards: Layout, tmp_path: Path) -> None:
    config = load(settings=[*TINY, "pretrain.tensorboard=true", "pretrain.picture_every=1"])
    pretrain(config, shards, tmp_path)
    names = sorted(path.name for path in (tmp_path / "dvclive" / "plots" / "images").iterdir())
    assert names == ["tasks-000000001.png", "tasks-000000002.png"]
    assert cv2.imread(str(tmp_path / "dvclive" / "plots" / "images" / names[0])).shape[2] == 3
    assert list((tmp_path / "tensorboard").iterdir())
    assert json.loads((tmp_path / "metrics.json").read_text())["val"]["samples"] >= 2


def test_tensorboard_that_is_not_installed_is_said_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="pip install tensorboard"):
        Log(tmp_path, 0, tensorboard=True)
