"""The most confident mistakes of the best classifier."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from common.errors import UserError
from common.page.images import face_image
from training.report.dataset import Dataset, read_face
from training.report.runs import MAIN, Evaluation, Run

SHOWN: Final = 6
"""Mistakes shown of each kind: false positives, false negatives."""

PER_ATTRIBUTE: Final = 2
"""At most so many of one attribute, or a rare one would fill the page."""

SIDE: Final = 160
"""Of a shown face, in pixels."""


@dataclass(frozen=True)
class Mistake:
    """A wrong prediction: the face and its key, the attribute, the predicted probability, and the label."""

    image: str
    key: str
    attribute: str
    probability: float
    label: bool


@dataclass(frozen=True)
class Mistakes:
    """The mistakes of one run."""

    run: Run
    mistakes: list[Mistake]


def find_mistakes(output: Path, dataset: Dataset, evaluation: Evaluation) -> Mistakes | None:
    """The most confident mistakes of the best run with the most labels; None without predictions.

    Raises:
        UserError: the predictions are of other shards, or a shard is broken.
    """
    file = output / "evaluate" / "predictions.parquet"
    if not file.is_file():
        return None
    run = max(evaluation.runs, key=lambda run: (run.faces, run.means[MAIN] or 0.0))
    rows, probabilities = _read_predictions(file, dataset, run)
    labels = dataset.labels[rows]
    names = dataset.samples.attributes
    thresholds = np.array([run.attributes[name].get("threshold") or 0.5 for name in names])
    mistakes = []
    for label in (0, 1):
        wrong = (labels == label) & ((probabilities >= thresholds) != (label == 1))
        for row, column in _most_confident(np.where(wrong, np.abs(probabilities - label), -1.0)):
            face = read_face(dataset, int(rows[row]))
            probability = float(probabilities[row, column])
            image = face_image(face.image, SIDE)
            mistakes.append(Mistake(image, face.key, names[column], probability, bool(label)))
    return Mistakes(run, mistakes)


def _read_predictions(
    file: Path, dataset: Dataset, run: Run
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Rows of the manifest, int64 (N,), and the probabilities of one run for them, float64 (N, A)."""
    names = dataset.samples.attributes
    table = pq.read_table(file, filters=[("run", "=", run.name)])
    row_of = {key: row for row, key in enumerate(dataset.samples.table["key"].to_pylist())}
    keys = table["key"].to_pylist()
    if set(names) - set(table.schema.names) or set(keys) - row_of.keys():
        raise UserError(f"{file} is of other shards; `python -m training.run --stage evaluate` makes it anew")
    probabilities = np.stack([np.asarray(table[name], np.float64) for name in names], axis=1)
    return np.array([row_of[key] for key in keys], np.int64), probabilities


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
