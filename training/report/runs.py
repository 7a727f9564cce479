"""What the result page shows of stage 2: runs with their scores, predictions, and the worst mistakes."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from common import manifest
from common.errors import UserError
from common.layout import Layout
from training.evaluate.scoring import MAJORITY, SCRATCH
from training.report.results import Mistake, Run
from training.report.samples import read_face

MISTAKES: Final = 6
"""Mistakes shown of each kind: yes instead of no, no instead of yes."""

STAGE_2_FACTS: Final = {
    "steps": "Steps",
    "chosen_step": "Chosen step",
    "loss": "Last loss",
    "val_average_precision": "Average precision on val",
}
"""What ``runs.json`` may say of the training of a run, and what the page calls it."""


def read_json(path: Path, stage: str) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: there is none; the message names the stage that writes it.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; `python -m training.run --stage {stage}` makes it")
    return json.loads(path.read_text(encoding="utf-8"))


def read_runs(output: Path) -> tuple[list[Run], Run | None]:
    """The evaluated runs, fewest labels first and from scratch before pre-trained, and the majority class."""
    trained = read_json(output / "finetune" / "runs.json", "finetune")
    if not trained:
        return [], None
    means = read_json(output / "evaluate" / "metrics.json", "evaluate")
    details = read_json(output / "evaluate" / "attributes.json", "evaluate")
    missing = [
        name for name in (MAJORITY, *(run["name"] for run in trained)) if name not in means.keys() & details
    ]
    if missing:
        raise UserError(
            f"{output / 'evaluate'} has no scores of {', '.join(missing)}; "
            "`python -m training.run --stage evaluate` makes them"
        )
    file = output / "evaluate" / "intervals.json"
    uncertain = read_json(file, "evaluate") if file.is_file() else {}
    runs = [_run(entry, means, details, uncertain) for entry in trained]
    order = list(dict.fromkeys((SCRATCH, *(run.initial for run in runs))))
    runs.sort(key=lambda run: (run.faces, str(run.labels), order.index(run.initial)))
    nothing = {"name": MAJORITY, "initial": MAJORITY, "labels": 0.0, "faces": 0, "steps": 0, "seconds": 0.0}
    return runs, _run(nothing, means, details, uncertain)


def _run(
    entry: Mapping[str, Any], means: dict[str, Any], details: dict[str, Any], uncertain: dict[str, Any]
) -> Run:
    name = entry["name"]
    found = uncertain.get(name, {})
    return Run(
        **{field: entry[field] for field in ("name", "initial", "labels", "faces", "steps", "seconds")},
        means=means[name],
        attributes=details[name],
        intervals=found.get("means", {}),
        gains=found.get("gains", {}),
        gaps=found.get("gaps", {}),
        reliability=found.get("reliability", []),
        facts={title: entry[field] for field, title in STAGE_2_FACTS.items() if entry.get(field) is not None},
    )


def read_predictions(output: Path, samples: manifest.Manifest) -> dict[str, NDArray[np.float64]]:
    """Probabilities by run, float64 (N, A) over the rows of the manifest, NaN where there are none."""
    file = output / "evaluate" / "predictions.parquet"
    if not file.is_file():
        return {}
    table = pq.read_table(file)
    place = {key: i for i, key in enumerate(samples.table["key"].to_pylist())}
    names, keys = table["run"].to_pylist(), table["key"].to_pylist()
    if set(samples.attributes) - set(table.schema.names) or set(keys) - place.keys():
        raise UserError(f"{file} is of other shards; `python -m training.run --stage evaluate` makes it anew")
    values = np.stack([np.asarray(table[name], np.float64) for name in samples.attributes], axis=1)
    found = {name: np.full((len(place), len(samples.attributes)), np.nan) for name in dict.fromkeys(names)}
    for name, key, row in zip(names, keys, values, strict=True):
        found[name][place[key]] = row
    return found


def worst_mistakes(
    layout: Layout,
    samples: manifest.Manifest,
    runs: Sequence[Run],
    found: dict[str, NDArray[np.float64]],
    labels: NDArray[np.int8],
    test: NDArray[np.int64],
) -> tuple[Run | None, list[Mistake]]:
    """The most confident mistakes of the best run with the most labels."""
    known = [run for run in runs if run.name in found]
    if not known:
        return None, []
    run = max(known, key=lambda run: (run.faces, run.means.get("average_precision") or 0.0))
    guess, truth = found[run.name][test], labels[test]
    thresholds = np.array([run.attributes[name].get("threshold") or 0.5 for name in samples.attributes])
    mistakes = []
    for label in (0, 1):
        wrong = (truth == label) & ((guess >= thresholds) == (label == 0))
        sureness = np.where(wrong, np.abs(guess - label), -1.0)
        faces, per_attribute = set[int](), Counter[int]()
        for flat in np.argsort(-sureness, axis=None, kind="stable"):
            row, column = (int(i) for i in np.unravel_index(flat, sureness.shape))
            if sureness[row, column] < 0 or len(faces) == MISTAKES:
                break
            # One per face and two per attribute, or one odd face or rare attribute would fill the page.
            if row in faces or per_attribute[column] == 2:
                continue
            faces.add(row)
            per_attribute[column] += 1
            face = read_face(layout, samples, int(test[row]))
            name = samples.attributes[column]
            mistakes.append(Mistake(face, name, float(guess[row, column]), bool(label)))
    return run, mistakes
