"""The most confident mistakes of the best classifier."""

from collections import Counter
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from common.errors import UserError
from common.page.images import image_uri
from common.shards import BrokenSample, decode_face, read_member
from training.data.samples import Samples
from training.report.runs import MAIN, Evaluation, Run

SHOWN: Final = 6
"""Mistakes shown of each kind: false positives, false negatives."""

PER_ATTRIBUTE: Final = 2
"""At most so many of one attribute, or a rare one would fill the page."""

SIDE: Final = 160
"""Of a shown face, in pixels."""


def find_mistakes(output: Path, test: Samples, evaluation: Evaluation) -> dict[str, Any] | None:
    """The most confident mistakes of the best run with the most labels; None without predictions.

    Returns:
        ``run``, and ``false_positives`` and ``false_negatives``: (image, key, attribute, probability) each.

    Raises:
        UserError: the predictions are of other shards, or a shard is broken.
    """
    file = output / "evaluate" / "predictions.parquet"
    if not file.is_file():
        return None
    run = max(evaluation.runs, key=lambda run: (run.faces, run.means[MAIN] or 0.0))
    rows, probabilities = _read_predictions(file, test, run)
    labels, names = test.attributes[rows], test.attribute_names
    thresholds = np.array([run.attributes[name].get("threshold") or 0.5 for name in names])
    mistakes: dict[str, Any] = {"run": run}
    for label, kind in enumerate(("false_positives", "false_negatives")):
        wrong = (labels == label) & ((probabilities >= thresholds) != (label == 1))
        confidence = np.where(wrong, np.abs(probabilities - label), -1.0)
        mistakes[kind] = [
            (_image(test, rows[row]), test.keys[rows[row]], names[column], float(probabilities[row, column]))
            for row, column in _most_confident(confidence)
        ]
    return mistakes


def _read_predictions(file: Path, test: Samples, run: Run) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Positions in `test`, int64 (N,), and the probabilities of one run for them, float64 (N, A)."""
    names = test.attribute_names
    table = pq.read_table(file, filters=[("run", "=", run.name)])
    row_of = {key: row for row, key in enumerate(test.keys)}
    keys = table["key"].to_pylist()
    if set(names) - set(table.schema.names) or set(keys) - row_of.keys():
        raise UserError(f"{file} is of other shards; `python -m training.run --stage evaluate` makes it anew")
    probabilities = np.stack([np.asarray(table[name], np.float64) for name in names], axis=1)
    return np.array([row_of[key] for key in keys], np.int64), probabilities


def _image(samples: Samples, row: int) -> str:
    shard = samples.shards[row]
    try:
        face = decode_face(read_member(samples.root, shard, samples.extent("jpg", row)))
    except BrokenSample as error:
        raise UserError(
            f"{samples.root / shard}, sample {samples.keys[row]}: {error}; run `python -m pipeline.verify`"
        ) from error
    return image_uri(face, "jpeg", SIDE)


def _most_confident(confidence: NDArray[np.float64]) -> list[tuple[int, int]]:
    """(face, attribute) of the highest values that are not negative, one per face and few per attribute."""
    chosen: dict[int, int] = {}
    for flat in np.argsort(-confidence, axis=None, kind="stable"):
        row, column = (int(i) for i in np.unravel_index(flat, confidence.shape))
        if confidence[row, column] < 0 or len(chosen) == SHOWN:
            break
        if row not in chosen and Counter(chosen.values())[column] < PER_ATTRIBUTE:
            chosen[row] = column
    return list(chosen.items())
