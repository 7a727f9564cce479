"""A metric is one entry of METRICS: it then appears in every result of the evaluation."""

import json
import re

import numpy as np
import pytest

from common.config import load
from training.data.samples import read_samples
from training.evaluate.evaluate import evaluate
from training.evaluate.metrics import METRICS, Metric, Predictions
from training.methods.runs import finetune
from training.report import report


def specificity(predictions: Predictions) -> np.ndarray:
    return 1 - predictions.false_positives / predictions.negatives


SPECIFICITY = Metric("specificity", "true negative rate", specificity, headline=True)


def test_a_metric_that_is_added_by_one_entry_appears_everywhere(shards, tmp_path, monkeypatch):
    monkeypatch.setitem(METRICS, SPECIFICITY.name, SPECIFICITY)
    config = load(
        settings=[
            *("network.width=8", "network.input_size=32", "finetune.runs=[{labels: 1.0, steps: 2}]"),
            *("finetune.methods=[scratch]", "finetune.batch_size=4", "trainer.loader_workers=0"),
            *("evaluate.resamples=10",),
        ]
    )
    output = tmp_path / "evaluate"
    finetune(config, shards, tmp_path / "none", tmp_path / "finetune")
    evaluate(config, shards, tmp_path / "finetune", output)

    mean = json.loads((output / "metrics.json").read_text())["scratch-100%"]["specificity"]
    assert 0 <= mean <= 1
    low, high = json.loads((output / "intervals.json").read_text())["scratch-100%"]["means"]["specificity"]
    assert low <= mean <= high
    attributes = json.loads((output / "attributes.json").read_text())["scratch-100%"]
    # What no train face has is in no mean.
    train = read_samples(shards, ("train",)).labelled()
    present = (train.attributes == 1).any(axis=0)
    learnt = [name for name, known in zip(train.attribute_names, present, strict=True) if known]
    values = [value for name in learnt if (value := attributes[name]["specificity"]) is not None]
    assert mean == pytest.approx(np.mean(values), abs=1e-4)
    table = (output / "table.txt").read_text()
    assert "true negative rate" in table
    assert re.search(rf"^from scratch .* {100 * mean:.1f}$", table, re.MULTILINE)

    report(config, shards, tmp_path, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text().casefold()
    assert "true negative rate" in page
    assert f"{100 * mean:.1f}" in page
