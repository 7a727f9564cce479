"""Whether the predictions can be trusted: mistakes, calibration, and where the network looks."""

from collections import Counter
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq
from markupsafe import Markup
from matplotlib.axes import Axes
from numpy.typing import NDArray

from common.errors import UserError
from common.members import BrokenSample, decode_face
from common.page.figures import SMALL, SOFT, colour, figure
from common.page.formats import count, percent
from common.page.images import data_uri, image_uri
from common.shards import read_member
from training.data.samples import Samples
from training.evaluate.metrics import PRIMARY
from training.evaluate.results import read_json
from training.evaluate.thresholds import Sureness
from training.report.scores import Evaluation, Run

SHOWN: Final = 6  # Mistakes of each kind
PER_ATTRIBUTE: Final = 2  # Of these, at most so many of one attribute, or a rare one would fill the page
STATED: Final = (0.02, 0.05, 0.1)  # Errors for which the page says how many predictions are sure


def find_mistakes(output: Path, test: Samples, evaluation: Evaluation) -> dict[str, Any] | None:
    """The most confident mistakes of the best run with the most labels; None without predictions.

    Returns:
        ``run``, and ``false_positives`` and ``false_negatives``: (image, key, attribute, probability) each,
        at most one per face.

    Raises:
        UserError: the predictions are of other shards, or a shard is broken.
    """
    run = max(evaluation.runs, key=lambda run: (run.faces, run.means[PRIMARY] or 0.0))
    if (predictions := _predictions(output, test, run)) is None:
        return None
    rows, probabilities = predictions
    names, labels = test.attribute_names, test.attributes[rows]
    thresholds = np.array([run.attributes[name].get("threshold") or 0.5 for name in names])
    mistakes: dict[str, Any] = {"run": run}
    for label, kind in enumerate(("false_positives", "false_negatives")):
        wrong = (labels == label) & ((probabilities >= thresholds) != (label == 1))
        confidence = np.where(wrong, np.abs(probabilities - label), -1.0)
        chosen: dict[int, int] = {}
        for flat in np.argsort(-confidence, axis=None, kind="stable"):
            row, column = (int(i) for i in np.unravel_index(flat, confidence.shape))
            if confidence[row, column] < 0 or len(chosen) == SHOWN:
                break
            if row not in chosen and Counter(chosen.values())[column] < PER_ATTRIBUTE:
                chosen[row] = column
        mistakes[kind] = [
            (_image(test, rows[row]), test.keys[rows[row]], names[column], float(probabilities[row, column]))
            for row, column in chosen.items()
        ]
    return mistakes


def sure_rows(output: Path, test: Samples, evaluation: Evaluation) -> list[list[str]]:
    """Of the best run with each number of labels, which share of the test predictions is sure enough for each
    error of `STATED`, and which share of these is wrong, below the headings; no rows without predictions.

    What is sure on one half of the people is decided by the error on the other half.

    Raises:
        UserError: the predictions are of other shards.
    """
    table = [["", *(f"at most {100 * error:.0f} % wrong" for error in STATED)]]
    for run in evaluation.best_runs:
        if (predictions := _predictions(output, test, run)) is None:
            continue
        rows, probabilities = predictions
        labels, people = test.attributes[rows], [test.identities[row] or test.keys[row] for row in rows]
        half = np.unique(people, return_inverse=True)[1] % 2
        known, cells = labels >= 0, [f"{count(run.faces, 'labelled face')}, {run.title}"]
        for error in STATED:
            decided = np.full_like(labels, -1)
            for own in (half == 0, half == 1):
                decided[own] = Sureness(probabilities[~own], labels[~own], error).decide(probabilities[own])
            sure = known & (decided >= 0)
            wrong = f" ({percent((decided != labels)[sure].mean())})" if sure.any() else ""
            cells.append(percent(sure.sum() / known.sum()) + wrong)
        table.append(cells)
    return table if len(table) > 1 else []


def _predictions(output: Path, test: Samples, run: Run) -> tuple[list[int], NDArray[np.float64]] | None:
    """Positions in `test`, and probabilities (N, A), of what a run predicted; None if it is not there."""
    file = output / "evaluate" / "predictions.parquet"
    if not file.is_file():
        return None
    table, names = pq.read_table(file, filters=[("run", "=", run.name)]), test.attribute_names
    row_of = {key: row for row, key in enumerate(test.keys)}
    keys = table["key"].to_pylist()
    if set(names) - set(table.schema.names) or set(keys) - row_of.keys():
        raise UserError(f"{file} is of other shards; `python -m training.run --stage evaluate` makes it anew")
    probabilities = np.stack([np.asarray(table[name], np.float64) for name in names], axis=1)
    return [row_of[key] for key in keys], probabilities


def _image(samples: Samples, row: int) -> str:
    shard = samples.shards[row]
    try:
        face = decode_face(read_member(samples.root, shard, samples.extent("jpg", row)))
    except BrokenSample as error:
        raise UserError(
            f"{samples.root / shard}, sample {samples.keys[row]}: {error}; run `python -m pipeline.verify`"
        ) from error
    return image_uri(face, "jpeg", 160)


def reliability_figure(run: Run) -> Markup:
    """How often attributes are present at each predicted probability, in percent."""
    x, y = ([100 * row[name] for row in run.reliability] for name in ("predicted", "observed"))

    def draw(axes: Axes) -> None:
        axes.plot([0, 100], [0, 100], color=SOFT, linewidth=0.7)
        axes.plot(x, y, color=colour(run.colour))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g} %")
        axes.set(xlim=(0, 100), ylim=(0, 100), xticks=[0, 50, 100], yticks=[0, 50, 100])
        axes.set(xlabel="predicted probability", ylabel="observed frequency")

    return figure(draw, f"Reliability of {run.name}", (SMALL[0], SMALL[0] * 0.8))


def read_maps(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """By branch, the attributes and images that ``maps.json`` of `training.explain` lists, if it is there."""
    listed, maps = folder / "maps.json", dict[str, list[tuple[str, str]]]()
    for entry in read_json(listed)["attributes"] if listed.is_file() else ():
        if (file := folder / entry["file"]).is_file():
            maps.setdefault(entry["branch"], []).append((entry["name"], data_uri(file.read_bytes(), "png")))
    return maps
