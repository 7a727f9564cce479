"""Evaluation of the fine-tuned runs on the test split, with thresholds of their own or from val."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tabulate import tabulate

from common.config import Config
from common.errors import UserError
from common.files import replacing, write_text
from common.hardware import hardware
from common.layout import Layout
from training.data.samples import Samples, read_samples
from training.engine.device import announce_training
from training.evaluate.metrics import METRICS, PRIMARY, Floats
from training.evaluate.results import Entry, by_labels, predict_command, read_runs
from training.evaluate.scoring import MAJORITY, Evaluator, RunScores, uncertainty
from training.evaluate.thresholds import DEFAULT, THRESHOLDS, best_threshold
from training.models.classifier import FILE, VAL, load_classifier, sample_probabilities


def evaluate(config: Config, layout: Layout, finetuned: Path, output: Path) -> None:
    """Compute all metrics of every fine-tuned run, and keep every prediction.

    Writes to `output`:
        ``metrics.json``: the means over the attributes, and where thresholds come from, by run name.
        ``attributes.json``: metrics, confidence intervals and thresholds, by run and attribute.
        ``intervals.json``: the intervals of the means, the gains over the reference, and the
            subgroups (see `training.evaluate.scoring.uncertainty`).
        ``thresholds.json``: by run the ``classifier`` that was judged (see `Classifier.identity`), its
            ``thresholds`` by attribute, and ``thresholds_from``.
        ``predictions.parquet``: a row per run and test face.
        ``table.txt``: what is printed, see `summary`.

    Raises:
        UserError: the results of fine-tuning are missing, or no test face has a label.
    """
    runs, known = read_runs(finetuned), dict[str, dict[str, Any]]()
    train, val, test = (read_samples(layout, (split,)).labelled() for split in ("train", "val", "test"))
    scores: dict[str, RunScores] = {}
    thresholds: dict[str, dict[str, Any]] = {}
    predictions = [pa.schema([("run", pa.string()), ("key", pa.string())]).empty_table()]
    if runs:
        if not len(test):
            raise UserError("no face of the test split has a label, so there is nothing to evaluate on")
        announce_training("evaluate", config.trainer.precision)
        evaluator = Evaluator(test, config.evaluate, train)
        scores[MAJORITY] = evaluator.score(np.tile(_prevalence(train), (len(test), 1)), None)
        predictions.clear()
    for name, faces in ((run["name"], run["faces"]) for run in runs):
        classifier = load_classifier(finetuned / name / FILE)
        classifier.configure(hardware().device, config.trainer.precision, config.evaluate.mirrored)
        how = (config.stream, config.evaluate.batch_size)
        if (cuts := classifier.thresholds) is None:
            cuts = dict.fromkeys(classifier.attributes, DEFAULT)
            if len(val):
                on_val = sample_probabilities(classifier, val, *how, f"val {name}")
                cuts = dict(zip(cuts, map(best_threshold, val.attributes.T, on_val.T), strict=True))
                classifier.thresholds_from = VAL
        on_test = sample_probabilities(classifier, test, *how, f"test {name}")
        source = {"thresholds_from": classifier.thresholds_from}
        known[name] = {"faces": faces, **source}
        thresholds[name] = {"classifier": classifier.identity, "thresholds": cuts, **source}
        scores[name] = evaluator.score(on_test, [cuts[attribute] for attribute in classifier.attributes])
        predictions.append(_predictions_table(name, test, on_test))
    runs = [{**run, **known[run["name"]]} for run in runs]
    means = {name: {**known.get(name, {}), **each.mean_scores} for name, each in scores.items()}
    intervals = uncertainty(scores, runs)
    for file, content in {
        "metrics.json": means,
        "attributes.json": {name: each.attributes for name, each in scores.items()},
        "intervals.json": intervals,
        THRESHOLDS: thresholds,
    }.items():
        write_text(output / file, json.dumps(content, indent=2) + "\n")
    with replacing(output / "predictions.parquet") as temporary:
        pq.write_table(pa.concat_tables(predictions), temporary)
    text = "no labels, so no classifier and no scores\n"
    if runs:
        text = summary(runs, means, {name: each["means"] for name, each in intervals.items()}, finetuned)
    write_text(output / "table.txt", text)
    print(text, end="")


def summary(
    runs: Sequence[Entry],
    means: Mapping[str, Mapping[str, float | None]],
    intervals: Mapping[str, Mapping[str, list[float] | None]],
    finetuned: Path,
) -> str:
    """The headline metrics of all methods, the best classifier with each amount of labels, and its use.

    Args:
        runs: entries of ``runs.json``, with ``thresholds_from``.
        means, intervals: of the metrics, by name of a run; `means` also of the majority class.
        finetuned: the folder of the runs.
    """
    chief, groups = [metric for metric in METRICS.values() if metric.headline], by_labels(runs)
    rows = {MAJORITY: [_percent(means[MAJORITY][metric.name]) for _ in groups for metric in chief]}
    for title in dict.fromkeys(run["title"] for run in runs):
        names = [next((run["name"] for run in group if run["title"] == title), "") for group in groups]
        rows[title] = [_percent(means.get(name, {}).get(metric.name)) for name in names for metric in chief]
    heads = [f"{group[0]['faces']:,} labels\n{metric.title}" for group in groups for metric in chief]
    cells, align = [[title, *row] for title, row in rows.items()], ["left", *["right"] * len(heads)]
    table = tabulate(cells, ["method, percent", *heads], "plain", colalign=align, disable_numparse=True)
    lines = [line.rstrip() for line in table.splitlines()]
    for group in groups:
        best = max(group, key=lambda run: means[run["name"]][PRIMARY] or 0.0)
        ends = intervals[best["name"]][PRIMARY] or ()
        interval = f" (95 % interval {' to '.join(map(_percent, ends))})" if ends else ""
        lines += [
            "",
            f"best with {best['faces']:,} labels: {best['title']}, {METRICS[PRIMARY].title} "
            f"{_percent(means[best['name']][PRIMARY])}{interval}, thresholds from {best['thresholds_from']}",
            f"    {predict_command(finetuned / best['name'] / FILE)}",
        ]
    return "\n".join(lines) + "\n"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _prevalence(train: Samples) -> Floats:
    """The share of positive labels per attribute, float64 (A,); one half where no label is known."""
    known = train.attributes >= 0
    count = known.sum(axis=0)
    return np.where(count > 0, (train.attributes * known).sum(axis=0) / np.maximum(count, 1), 0.5)


def _predictions_table(run: str, test: Samples, probabilities: Floats) -> pa.Table:
    """Run, key, identity; per attribute NAME, its probability in float32, and NAME.label, int8 or null."""
    columns: dict[str, Any] = {"run": [run] * len(test), "key": list(test.keys)}
    columns["identity"] = pa.array(test.identities, pa.string())
    for column, name in enumerate(test.attribute_names):
        labels = test.attributes[:, column]
        columns[name] = probabilities[:, column].astype(np.float32)
        columns[f"{name}.label"] = pa.array(labels, mask=labels < 0)
    return pa.table(columns)
