"""Evaluation of the fine-tuned runs on the test split, with thresholds of their own or from val."""

import csv
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
from common.layout import Layout
from training.data.samples import Samples, read_samples
from training.engine.device import announce_training, default_device
from training.evaluate.metrics import METRICS, Floats
from training.evaluate.results import read_runs
from training.evaluate.scoring import MAJORITY, Evaluator, RunScores, references, uncertainty
from training.evaluate.thresholds import THRESHOLDS, best_thresholds
from training.models.classifier import FILE, NONE_KNOWN, VAL, load_classifier
from training.models.inference import sample_probabilities


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
        ``table.txt``: the table that is printed. ``plots/``: what ``dvc plots`` draws.

    Raises:
        UserError: the results of fine-tuning are missing, or no test face has a label.
    """
    runs = read_runs(finetuned)
    output.mkdir(parents=True, exist_ok=True)
    train, val, test = (read_samples(layout, (split,)).labelled() for split in ("train", "val", "test"))
    scores: dict[str, RunScores] = {}
    predictions: list[pa.Table] = []
    thresholds: dict[str, dict[str, Any]] = {}
    sources: dict[str, dict[str, str]] = {}
    if runs:
        if not len(test):
            raise UserError("no face of the test split has a label, so there is nothing to evaluate on")
        announce_training("evaluate", config.trainer.precision)
        evaluator = Evaluator(test, config.evaluate, train)
        scores[MAJORITY] = evaluator.score(np.tile(_prevalence(train), (len(test), 1)), None)
    for name in (run["name"] for run in runs):
        classifier = load_classifier(finetuned / name / FILE)
        classifier.configure(default_device(), config.trainer.precision, config.evaluate.mirrored)
        loading = config.stream, config.evaluate.batch_size
        if classifier.thresholds is None:
            on_val = sample_probabilities(classifier, val, *loading, f"val {name}") if len(val) else None
            cuts = best_thresholds(val.attributes, on_val)
            classifier.thresholds = dict(zip(classifier.attributes, cuts, strict=True))
            classifier.thresholds_from = NONE_KNOWN if on_val is None else VAL
        cuts = [classifier.thresholds[attribute] for attribute in classifier.attributes]
        on_test = sample_probabilities(classifier, test, *loading, f"test {name}")
        thresholds[name] = {
            "classifier": classifier.identity,
            "thresholds": classifier.thresholds,
            "thresholds_from": classifier.thresholds_from,
        }
        scores[name] = evaluator.score(on_test, cuts)
        sources[name] = {"thresholds_from": classifier.thresholds_from}
        predictions.append(_predictions_table(name, test, on_test))
    write_scores(output, [{**run, **sources[run["name"]]} for run in runs], scores)
    write_json(output / THRESHOLDS, thresholds)
    with replacing(output / "predictions.parquet") as temporary:
        empty = pa.schema([("run", pa.string()), ("key", pa.string())]).empty_table()
        pq.write_table(pa.concat_tables(predictions or [empty]), temporary)


def write_json(file: Path, values: Any) -> None:
    """Write indented JSON."""
    write_text(file, json.dumps(values, indent=2) + "\n")


def write_scores(output: Path, runs: Sequence[Mapping[str, Any]], scores: Mapping[str, RunScores]) -> None:
    """Write all files of `evaluate` that hold scores, and print the table of means.

    Args:
        output: folder.
        runs: entries of ``runs.json``, with ``thresholds_from``.
        scores: by run name; empty if `runs` is.
    """
    known = {run["name"]: {key: run[key] for key in ("faces", "thresholds_from")} for run in runs}
    means = {name: {**known.get(name, {}), **each.mean_scores} for name, each in scores.items()}
    table = format_table(means) if means else "no labels, so no classifier and no scores"
    write_text(output / "table.txt", table + "\n")
    print(table)
    write_json(output / "metrics.json", means)
    write_json(output / "attributes.json", {name: each.attributes for name, each in scores.items()})
    write_json(output / "intervals.json", uncertainty(scores, references(runs)))
    reliability = [{"run": run["name"], **row} for run in runs for row in scores[run["name"]].reliability]
    write_json(output / "plots" / "calibration.json", reliability)
    by_labels = [[run["method"], run["faces"], *scores[run["name"]].mean_scores.values()] for run in runs]
    by_attribute = [
        [run, attribute, *(values[metric] for metric in METRICS)]
        for run, each in scores.items()
        for attribute, values in each.attributes.items()
    ]
    for name, heads, rows in (
        ("labels", ("method", "faces"), by_labels),
        ("attributes", ("run", "attribute"), by_attribute),
    ):
        with (
            replacing(output / "plots" / f"{name}.csv") as temporary,
            temporary.open("w", encoding="utf-8") as stream,
        ):
            csv.writer(stream, lineterminator="\n").writerows([[*heads, *METRICS], *rows])


def format_table(means: Mapping[str, Mapping[str, Any]]) -> str:
    """The table of means as plain text: a row per run, in percent."""
    rows = []
    for name, mean in means.items():
        values = ["-" if mean[metric] is None else f"{100 * mean[metric]:.1f}" for metric in METRICS]
        faces = f"{mean['faces']:,}" if "faces" in mean else ""
        rows.append([name, faces, *values, mean.get("thresholds_from", "")])
    heads = ["run", "faces", *(metric.title for metric in METRICS.values()), "thresholds from"]
    alignment = ["left", *["right"] * (len(heads) - 2), "left"]
    lines = tabulate(rows, heads, tablefmt="plain", colalign=alignment, disable_numparse=True).splitlines()
    return "\n".join(line.rstrip() for line in lines)


def _prevalence(train: Samples) -> Floats:
    """The share of positive labels per attribute, float64 (A,); one half where no label is known."""
    known = train.attributes >= 0
    count = known.sum(axis=0)
    return np.where(count > 0, (train.attributes * known).sum(axis=0) / np.maximum(count, 1), 0.5)


def _predictions_table(run: str, test: Samples, probabilities: Floats) -> pa.Table:
    """Rows of ``predictions.parquet``: run, key, identity, and two columns per attribute.

    These are NAME, the probability in float32, and NAME.label, int8, null where the label is unknown.
    """
    columns: dict[str, Any] = {
        "run": [run] * len(test),
        "key": list(test.keys),
        "identity": pa.array(test.identities, pa.string()),
    }
    for column, name in enumerate(test.attribute_names):
        labels = test.attributes[:, column]
        columns[name] = probabilities[:, column].astype(np.float32)
        columns[f"{name}.label"] = pa.array(labels, mask=labels < 0)
    return pa.table(columns)
