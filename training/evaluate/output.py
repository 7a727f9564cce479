"""The files of the evaluation: the table of means, the data of the plots, and all predictions."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tabulate import tabulate

from common.files import write_text
from training.data.samples import Samples
from training.evaluate.metrics import METRICS
from training.evaluate.scoring import RunScores


def write_json(file: Path, values: Any) -> None:
    """Write indented JSON."""
    write_text(file, json.dumps(values, indent=2) + "\n")


def format_table(means: Mapping[str, Mapping[str, Any]]) -> str:
    """The table of means as plain text: a row per run, in percent."""
    rows = []
    for name, mean in means.items():
        values = ["-" if mean[metric] is None else f"{100 * mean[metric]:.1f}" for metric in METRICS]
        rows.append([name, f"{mean['faces']:,}" if "faces" in mean else "", *values])
    heads = ["run", "faces", *(metric.title for metric in METRICS.values())]
    alignment = ["left", *["right"] * (len(heads) - 1)]
    lines = tabulate(rows, heads, tablefmt="plain", colalign=alignment, disable_numparse=True).splitlines()
    return "\n".join(line.rstrip() for line in lines)


def predictions_table(run: str, test: Samples, probabilities: NDArray[np.float64]) -> pa.Table:
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


def write_plots(folder: Path, runs: Sequence[Mapping[str, Any]], scores: Mapping[str, RunScores]) -> None:
    """Write ``labels.csv``, ``attributes.csv`` and ``calibration.json``, which ``dvc plots`` draws."""
    folder.mkdir(parents=True, exist_ok=True)
    by_run = [[run["initial"], run["faces"], *scores[run["name"]].means.values()] for run in runs]
    by_attribute = [
        [run, attribute, *(values[metric] for metric in METRICS)]
        for run, each in scores.items()
        for attribute, values in each.attributes.items()
    ]
    reliability = [{"run": run["name"], **row} for run in runs for row in scores[run["name"]].reliability]
    write_text(folder / "labels.csv", _csv([["start", "faces", *METRICS], *by_run]))
    write_text(folder / "attributes.csv", _csv([["run", "attribute", *METRICS], *by_attribute]))
    write_text(folder / "calibration.json", json.dumps(reliability, indent=1) + "\n")


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
