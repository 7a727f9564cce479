"""A fourth pretext task is one class and one block of settings: nothing else of the project knows it."""

import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.config import load
from training.evaluate.evaluate import evaluate
from training.methods.runs import finetune
from training.models import Features
from training.pretrain import train
from training.pretrain.tasks import TASKS
from training.pretrain.tasks.base import PretextTask, TaskConfig, TaskContext, TaskMetric, share_correct
from training.pretrain.tasks.patches import Crops
from training.report import report

TINY = [
    *("network.width=8", "network.input_size=32", "pretrain.steps=3", "pretrain.batch_size=4"),
    *("pretrain.log_every=1", "trainer.loader_workers=0", "pretrain.validate_every=null"),
    *("finetune.runs=[{labels: 1.0, steps: 2}]", "finetune.methods=[scratch]", "finetune.batch_size=4"),
    *("evaluate.resamples=10",),
]


class BrightnessConfig(TaskConfig):
    """threshold: grey value, 0 to 255, from which a patch counts as bright."""

    threshold: float


class BrightnessTask(PretextTask[BrightnessConfig]):
    """Whether the patch is bright."""

    name = "brightness"
    abbreviation = "PBT"
    title = "Patch brightness"
    config_class = BrightnessConfig
    features = frozenset({"backbone"})

    def __init__(self, config: BrightnessConfig, context: TaskContext) -> None:
        super().__init__(config, context)
        self.head = nn.Linear(context.channels, 1)

    def targets(self, crops: Crops, generator: torch.Generator) -> dict[str, Tensor]:
        threshold = self.config.threshold / 255
        return {"bright": (crops.images.float().mean((1, 2, 3)) / 255 > threshold).float()}

    def forward(self, features: Features) -> dict[str, Tensor]:
        return {"logits": self.head(features.backbone.mean((2, 3)))[:, 0]}

    def losses(self, outputs: Any, targets: Any) -> dict[str, Tensor]:
        return {"loss": F.binary_cross_entropy_with_logits(outputs["logits"].float(), targets["bright"])}

    def metrics(self) -> tuple[TaskMetric, ...]:
        return (TaskMetric("bright_accuracy", "bright patches", share_correct("correct"), chance=0.5),)

    def observe(self, outputs: Any, targets: Any) -> dict[str, Tensor]:
        return {"correct": (outputs["logits"] > 0) == targets["bright"].bool()}


@pytest.fixture(scope="module")
def output(shards, tmp_path_factory):
    """A short run with the task, next to one without it."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        train.pretrain(load(settings=TINY), shards, folder / "without")
        patch.setitem(TASKS, "brightness", BrightnessTask)
        config = load(settings=[*TINY, "pretrain.tasks.brightness={weight: 0.5, threshold: 100.0}"])
        train.pretrain(config, shards, folder / "pretrain")
    return folder


def test_it_is_seen_in_the_log(output):
    curves = output / "pretrain" / "dvclive" / "plots" / "metrics"
    for name in ("pretrain/brightness/loss", "pretrain/brightness/bright_accuracy"):
        assert len((curves / f"{name}.tsv").read_text().splitlines()) == 4
    assert (curves / "val" / "brightness" / "bright_accuracy.tsv").is_file()


def test_it_describes_itself_in_the_metrics(output):
    metrics = json.loads((output / "pretrain" / "metrics.json").read_text())
    assert 0 <= metrics["train"]["brightness/bright_accuracy"] <= 1
    assert 0 <= metrics["val"]["brightness/bright_accuracy"] <= 1
    assert metrics["tasks"][-1] == {
        "name": "brightness",
        "abbreviation": "PBT",
        "title": "Patch brightness",
        "weight": 0.5,
        "metrics": [
            {"name": "bright_accuracy", "title": "bright patches", "chance": 0.5, "higher_is_better": True}
        ],
    }


def test_its_weight_counts_in_the_total(output):
    def losses(name: str) -> dict[str, float]:
        folder = output / name / "dvclive" / "plots" / "metrics" / "pretrain"
        rows = {
            str(file.relative_to(folder)): file.read_text().splitlines()[1]
            for file in folder.rglob("*loss.tsv")
        }
        return {file: float(row.split("\t")[1]) for file, row in rows.items()}

    with_it, without = losses("pretrain"), losses("without")
    added = 0.5 * with_it.pop("brightness/loss.tsv")
    assert with_it.pop("loss.tsv") == pytest.approx(without.pop("loss.tsv") + added, rel=1e-4)
    assert with_it == without  # in the first step: no draw of another task has changed


def test_it_is_on_the_page(output, shards):
    config = load(settings=TINY)
    finetune(config, shards, output / "pretrain" / "pretrained.safetensors", output / "finetune")
    evaluate(config, shards, output / "finetune", output / "evaluate")
    report(config, shards, output, output / "report.html")
    text = (output / "report.html").read_text()
    assert "Patch brightness" in text
    assert "bright patches" in text
