"""A pretext task, a method and a metric are one class or entry each; no other code knows them."""

import io
import json
import re
from collections.abc import Collection
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from common.config import load
from training.data.loader import Batch
from training.data.samples import read_samples
from training.evaluate.evaluate import evaluate
from training.evaluate.metrics import METRICS, Metric, Predictions
from training.methods.method import Context, Method, Run
from training.methods.runs import METHODS, finetune
from training.models import Features
from training.models.classifier import Classifier, load_classifier
from training.predict.predict import predict_stored
from training.pretrain import train
from training.pretrain.tasks import TASKS
from training.pretrain.tasks.base import PretextTask, TaskConfig, TaskContext, TaskMetric, mean_of
from training.pretrain.tasks.patches import Crops
from training.report.page import report
from training.study.results import draw_folder, write_results

TINY = [
    *("network.width=8", "network.input_size=32", "pretrain.steps=3", "pretrain.batch_size=4"),
    *("pretrain.log_every=1", "trainer.loader_workers=0", "pretrain.validate_every=null"),
    *("finetune.methods=[probe, brightness]", "finetune.runs=[{labels: 1.0, steps: 1}]"),
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
        return (TaskMetric("bright_accuracy", "bright patches", mean_of("correct"), chance=0.5),)

    def observe(self, outputs: Any, targets: Any) -> dict[str, Tensor]:
        return {"correct": (outputs["logits"] > 0) == targets["bright"].bool()}


@dataclass(kw_only=True, eq=False)
class Brightness(Classifier, kind="brightness"):
    """An attribute is more likely the brighter a face is.

    Attributes:
        means: float64 (A,), the mean grey value, 0 to 1, of faces with the attribute.
    """

    means: NDArray[np.float64]

    @property
    def members(self) -> frozenset[str]:
        return frozenset({"jpg"})

    def logits(self, batch: Batch) -> NDArray[np.float32]:
        grey = batch.images.float().mean((1, 2, 3)).numpy() / 255
        return (grey[:, None] - self.means).astype(np.float32)


class BrightnessMethod(Method):
    """Says for every attribute how bright faces with it are."""

    name = "brightness"
    title = "mean brightness"
    sentence = "Compares the brightness of a face with that of faces with an attribute."

    def members(self, stored: Collection[str]) -> frozenset[str]:
        return frozenset({"jpg"})

    def fit(self, context: Context, run: Run) -> tuple[Classifier, dict[str, Any]]:
        share = (run.labelled.attributes == 1).mean(axis=0)
        classifier = Brightness(attributes=run.labelled.attribute_names, means=share)
        return classifier, {"steps": 0, "seconds": 0.1, "loss": 0.5}


def specificity(predictions: Predictions) -> np.ndarray:
    return 1 - predictions.false_positives / predictions.negatives


SPECIFICITY = Metric("specificity", "true negative rate", specificity, headline=True)


@pytest.fixture(scope="module")
def output(shards, tmp_path_factory):
    """All results of a run with the three, next to pre-training without the task, and what was printed."""
    folder, printed = tmp_path_factory.mktemp("runs"), io.StringIO()
    config = load(settings=TINY)
    with pytest.MonkeyPatch.context() as patch:
        train.pretrain(config, shards, folder / "without")
        patch.setitem(TASKS, "brightness", BrightnessTask)
        patch.setitem(METHODS, BrightnessMethod.name, BrightnessMethod())
        patch.setitem(METRICS, SPECIFICITY.name, SPECIFICITY)
        config = load(settings=[*TINY, "pretrain.tasks.brightness={weight: 0.5, threshold: 100.0}"])
        train.pretrain(config, shards, folder / "pretrain")
        for _ in range(2):
            with redirect_stdout(printed):
                finetune(config, shards, folder / "none", folder / "finetune")
        evaluate(config, shards, folder / "finetune", folder / "evaluate")
        report(config, shards, folder, folder / "report.html")
        file = folder / "finetune" / "brightness-100%" / "classifier.pt"
        predict_stored(config, shards, file, None, folder / "faces.parquet")
        (folder / "study").mkdir()
        draw_folder(folder / "study", 0).symlink_to(folder)
        write_results(1, folder / "study")
    assert "brightness-100% is up to date" in printed.getvalue()
    return folder


def test_the_task_is_seen_in_the_log_and_describes_itself_in_the_metrics(output):
    curves = output / "pretrain" / "dvclive" / "plots" / "metrics"
    for name in ("pretrain/brightness/loss", "pretrain/brightness/bright_accuracy"):
        assert len((curves / f"{name}.tsv").read_text().splitlines()) == 4
    assert (curves / "val" / "brightness" / "bright_accuracy.tsv").is_file()
    metrics = json.loads((output / "pretrain" / "metrics.json").read_text())
    assert all("brightness/bright_accuracy" in metrics[split] for split in ("train", "val"))
    metric = {"name": "bright_accuracy", "title": "bright patches", "chance": 0.5, "higher_is_better": True}
    described = {"name": "brightness", "abbreviation": "PBT", "title": "Patch brightness", "weight": 0.5}
    assert metrics["tasks"][-1] == {**described, "metrics": [metric]}


def test_the_task_s_weight_counts_in_the_total(output):
    def losses(name: str) -> dict[str, float]:
        folder = output / name / "dvclive" / "plots" / "metrics" / "pretrain"
        files = {str(file.relative_to(folder)): file for file in folder.rglob("*loss.tsv")}
        return {name: float(file.read_text().splitlines()[1].split("\t")[1]) for name, file in files.items()}

    with_it, without = losses("pretrain"), losses("without")
    added = 0.5 * with_it.pop("brightness/loss.tsv")
    assert with_it.pop("loss.tsv") == pytest.approx(without.pop("loss.tsv") + added, rel=1e-4)
    assert with_it == without  # in the first step: no draw of another task has changed


def test_the_method_is_evaluated_studied_and_predicts_and_all_three_are_on_the_page(output):
    means = json.loads((output / "evaluate" / "metrics.json").read_text())
    assert "balanced_accuracy" in means["brightness-100%"]
    for table in (output / "evaluate" / "table.txt", output / "study" / "table.md"):
        assert BrightnessMethod.title in table.read_text()
    classifier = load_classifier(output / "finetune" / "brightness-100%" / "classifier.pt")
    assert classifier.metadata["title"] == BrightnessMethod.title
    assert set(classifier.attributes) < set(pq.read_table(output / "faces.parquet").column_names)
    page = (output / "report.html").read_text().casefold()
    shown = ("patch brightness", "bright patches", BrightnessMethod.title, SPECIFICITY.title)
    assert all(words in page for words in (*shown, f"{100 * means['probe-100%']['specificity']:.1f}"))


def test_the_metric_is_in_every_result(output, shards):
    mean, intervals, attributes = (
        json.loads((output / "evaluate" / f"{name}.json").read_text())["probe-100%"]
        for name in ("metrics", "intervals", "attributes")
    )
    low, high = intervals["means"]["specificity"]
    assert 0 <= low <= mean["specificity"] <= high <= 1
    # What no train face has is in no mean.
    train = read_samples(shards, ("train",)).labelled()
    present = (train.attributes == 1).any(axis=0)
    learnt = [name for name, known in zip(train.attribute_names, present, strict=True) if known]
    values = [value for name in learnt if (value := attributes[name]["specificity"]) is not None]
    assert mean["specificity"] == pytest.approx(np.mean(values), abs=1e-4)
    table = (output / "evaluate" / "table.txt").read_text()
    assert SPECIFICITY.title in table
    assert re.search(rf"^linear probe .* {100 * mean['specificity']:.1f}$", table, re.MULTILINE)
