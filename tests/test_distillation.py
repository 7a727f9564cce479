"""Feature distillation: what is cut out is what lies below the patch, and every branch learns from it."""

import json
from pathlib import Path

import pytest
import torch

from common.config import load
from common.errors import UserError
from common.layout import Layout
from training.models import BRANCHES, Features
from training.pretrain.tasks.base import TaskContext
from training.pretrain.tasks.class_sets import ALL
from training.pretrain.tasks.distillation import (
    SOURCES,
    DistillationConfig,
    DistillationTask,
    crop_features,
    standardise,
)
from training.pretrain.tasks.patches import flip_features
from training.pretrain.train import pretrain

SETTINGS = [
    *("network.width=8", "network.input_size=32", "pretrain.steps=2", "pretrain.batch_size=4"),
    *("pretrain.validate_every=null", "pretrain.batch_norm_batches=1", "pretrain.picture_every=null"),
    *("pretrain.loader_workers=0", "pretrain.tasks.distillation.weight=1.0"),
    *(f"pretrain.tasks.{name}.weight=0" for name in ("segmentation", "classification", "adversarial")),
]


def ramp() -> torch.Tensor:
    """Features (2, 8, 8, 2) that hold each cell's row and column centre as a share of the side."""
    centres = (torch.arange(8) + 0.5) / 8
    rows, columns = torch.meshgrid(centres, centres, indexing="ij")
    return torch.stack((rows, columns), dim=2).expand(2, 8, 8, 2)


def test_the_features_of_a_patch_are_those_below_it() -> None:
    top, left, size, side = torch.tensor([64, 32]), torch.tensor([32, 96]), 256, 128
    cut = crop_features(ramp(), top, left, side / size, size, 4)
    steps = (torch.arange(4) + 0.5) / 4 * side
    for sample in range(2):
        rows, columns = (top[sample] + steps) / size, (left[sample] + steps) / size
        assert torch.allclose(cut[sample, 0], rows[:, None].expand(4, 4), atol=1e-5)
        assert torch.allclose(cut[sample, 1], columns[None].expand(4, 4), atol=1e-5)


def test_a_mirrored_face_has_mirrored_features() -> None:
    flipped = flip_features(ramp(), torch.tensor([True, False]))
    assert torch.equal(flipped[0], ramp()[0].flip(1))
    assert torch.equal(flipped[1], ramp()[1])


@pytest.mark.parametrize("loss", ["cosine", "smooth_l1"])
def test_the_loss_reaches_the_backbone_and_every_branch_and_is_zero_at_the_target(loss: str) -> None:
    config = DistillationConfig.model_validate({"weight": 1.0, "loss": loss, "cells": 4})
    task = DistillationTask(config, TaskContext(6, 32, False, ALL, None))
    maps = {name: torch.randn(3, 6, 2, 2, requires_grad=True) for name in SOURCES}
    outputs = task(Features(maps["backbone"], {name: maps[name] for name in BRANCHES}))
    targets = {"features": standardise(torch.randn(3, 64, 4, 4))}
    task.losses(outputs, targets)["loss"].backward()
    for each in maps.values():
        assert each.grad is not None and each.grad.abs().sum() > 0
    perfect = dict.fromkeys(SOURCES, targets["features"])
    assert task.losses(perfect, targets)["loss"].item() == pytest.approx(0, abs=1e-5)
    assert task.observe(perfect, targets)["similarity"].tolist() == pytest.approx([1] * 3)


def test_pre_training_distils_beside_other_tasks_and_reports_it(
    shards: Layout, tmp_path: Path
) -> None:
    pretrain(load(settings=SETTINGS), shards, tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert [task["abbreviation"] for task in metrics["tasks"]] == ["PRT", "PFD"]
    assert -1 <= metrics["val"]["distillation/cosine_similarity"] <= 1
    assert metrics["train"]["distillation/loss"] > 0


def test_shards_without_features_are_named_before_a_step(shards: Layout, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no features\.npy; parse the faces again with parse\.features=grid"):
        pretrain(load(settings=SETTINGS), shards, tmp_path)
