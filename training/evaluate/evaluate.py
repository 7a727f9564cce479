"""Evaluation of the fine-tuned runs on the test split, with thresholds from val."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from common.config import Evaluate
from common.errors import UserError
from common.files import replacing, write_text
from common.layout import Layout
from common.pipeline_config import Stream
from training.data.samples import Samples, read_samples
from training.engine.device import announce_training
from training.evaluate.output import format_table, predictions_table, write_json, write_plots
from training.evaluate.probabilities import ShardPredictor
from training.evaluate.scoring import MAJORITY, Evaluator, RunScores, uncertainty
from training.evaluate.thresholds import best_thresholds


def evaluate(settings: Evaluate, stream: Stream, layout: Layout, finetuned: Path, output: Path) -> None:
    """Compute all metrics of every fine-tuned run, and keep every prediction.

    Writes to `output`:
        ``metrics.json``: the means over the attributes, by run name.
        ``attributes.json``: metrics, confidence intervals and thresholds, by run and attribute.
        ``intervals.json``: the intervals of the means, the gains over the runs from scratch, and the
            subgroups (see `training.evaluate.scoring.uncertainty`).
        ``predictions.parquet``: a row per run and test face.
        ``table.txt``: the table that is printed. ``plots/``: what ``dvc plots`` draws.

    Raises:
        UserError: the results of fine-tuning are missing, or no test face has a label.
    """
    runs = _read_runs(finetuned)
    output.mkdir(parents=True, exist_ok=True)
    scores: dict[str, RunScores] = {}
    predictions = [pa.table({"run": pa.array([], pa.string()), "key": pa.array([], pa.string())})]
    if runs:
        scores, predictions = _score_runs(settings, stream, layout, finetuned, runs)
    faces = {run["name"]: {"faces": run["faces"]} for run in runs}
    means = {name: {**faces.get(name, {}), **each.means} for name, each in scores.items()}
    write_json(output / "metrics.json", means)
    write_json(output / "attributes.json", {name: each.attributes for name, each in scores.items()})
    write_json(output / "intervals.json", uncertainty(scores, runs))
    write_plots(output / "plots", runs, scores)
    table = format_table(means) if means else "no labels, so no classifier and no scores"
    write_text(output / "table.txt", table + "\n")
    with replacing(output / "predictions.parquet") as temporary:
        pq.write_table(pa.concat_tables(predictions), temporary)
    print(table)


def _read_runs(finetuned: Path) -> list[dict[str, Any]]:
    file = finetuned / "runs.json"
    if not file.is_file():
        raise UserError(f"{file} is missing; `python -m training.run --stage finetune` makes it")
    runs = json.loads(file.read_text(encoding="utf-8"))
    assert isinstance(runs, list)
    return runs


def _score_runs(
    settings: Evaluate, stream: Stream, layout: Layout, finetuned: Path, runs: list[dict[str, Any]]
) -> tuple[dict[str, RunScores], list[pa.Table]]:
    """The scores of the majority class and of every run, and the predictions of every run."""
    train, val, test = (read_samples(layout, (split,)).labelled() for split in ("train", "val", "test"))
    if not len(test):
        raise UserError("no face of the test split has a label, so there is nothing to evaluate on")
    announce_training("evaluate", settings.precision)
    evaluator = Evaluator(test, settings)
    scores = {MAJORITY: evaluator.score(np.tile(_prevalence(train), (len(test), 1)), None)}
    predictions = []
    for name in (run["name"] for run in runs):
        predictor = ShardPredictor(finetuned / name / "classifier.pt", settings, stream)
        on_val = predictor(val, f"val {name}") if len(val) else None
        on_test = predictor(test, f"test {name}")
        scores[name] = evaluator.score(on_test, best_thresholds(val.attributes, on_val))
        predictions.append(predictions_table(name, test, on_test))
    return scores, predictions


def _prevalence(train: Samples) -> NDArray[np.float64]:
    """The share of positive labels per attribute, float64 (A,); one half where no label is known."""
    known = train.attributes >= 0
    count = known.sum(axis=0)
    return np.where(count > 0, (train.attributes * known).sum(axis=0) / np.maximum(count, 1), 0.5)
