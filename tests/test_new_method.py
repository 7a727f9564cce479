"""A further method is one class in one file: the table, the report, the study and predictions show it."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from common.config import load
from training.data.loader import Batch
from training.evaluate.evaluate import evaluate
from training.methods.method import Context, Method, Run
from training.methods.runs import METHODS, finetune
from training.models.classifier import Classifier, load_classifier
from training.predict.predict import predict_stored
from training.report import report
from training.study.results import draw_folder, write_results


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


def test_a_method_in_one_file_is_evaluated_reported_studied_and_predicts(
    shards, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(METHODS, BrightnessMethod.name, BrightnessMethod())
    config = load(
        settings=[
            "finetune.methods=[probe, brightness]",
            "finetune.runs=[{labels: 1.0, steps: 1}]",
            "evaluate.resamples=5",
        ]
    )
    finetune(config, shards, tmp_path / "none", tmp_path / "finetune")
    finetune(config, shards, tmp_path / "none", tmp_path / "finetune")
    assert "brightness-100% is up to date" in capsys.readouterr().out

    evaluate(config, shards, tmp_path / "finetune", tmp_path / "evaluate")
    assert BrightnessMethod.title in (tmp_path / "evaluate" / "table.txt").read_text()
    assert (
        "balanced_accuracy"
        in json.loads((tmp_path / "evaluate" / "metrics.json").read_text())["brightness-100%"]
    )
    report(config, shards, tmp_path, tmp_path / "report.html")
    assert BrightnessMethod.title in (tmp_path / "report.html").read_text()

    file = tmp_path / "finetune" / "brightness-100%" / "classifier.pt"
    predict_stored(config, shards, file, None, tmp_path / "faces.parquet")
    classifier = load_classifier(file)
    assert classifier.metadata["title"] == BrightnessMethod.title
    table = pq.read_table(tmp_path / "faces.parquet")
    assert set(classifier.attributes) < set(table.column_names)

    (tmp_path / "study").mkdir()
    draw_folder(tmp_path / "study", 0).symlink_to(tmp_path)
    write_results(1, tmp_path / "study")
    assert BrightnessMethod.title in (tmp_path / "study" / "table.md").read_text()
