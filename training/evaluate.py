"""Evaluation on the test split: thresholds from val, majority class and scratch beside."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from contract.config import Config, Network, Stream
from contract.errors import UserError
from contract.files import replacing, write_text
from contract.layout import Layout
from contract.progress import progress
from training import checkpoint
from training.classifier import Classifier
from training.metrics import SCORES, best_threshold, mean_scores, scores
from training.optimization import device
from training.preprocess import to_input
from training.stream import Faces, in_order, load, read_faces

MAJORITY = "majority class"


def evaluate(config: Config, layout: Layout, finetuned: Path, output: Path) -> None:
    """Score every fine-tuned run; write means, scores per attribute, and every prediction.

    ``metrics.json`` holds means by run name, ``attributes.json`` scores and thresholds per
    run and attribute, ``predictions.parquet`` a row per run and test face, and ``table.txt``
    the table that is printed.

    Raises:
        UserError: the fine-tuning results are missing, or no test face has a label.
    """
    runs = _read_runs(finetuned)
    output.mkdir(parents=True, exist_ok=True)
    means: dict[str, Any] = {}
    details: dict[str, Any] = {}
    predictions: list[pa.Table] = []
    if runs:
        train, val, test = (read_faces(layout, (split,)).labelled() for split in ("train", "val", "test"))
        if not len(test):
            raise UserError("no face of the test split has a label, so there is nothing to evaluate on")
        details[MAJORITY] = _majority(train, test)
        means[MAJORITY] = mean_scores(details[MAJORITY])
        for run in runs:
            found, probabilities = _score(config, finetuned / run["name"], val, test)
            details[run["name"]] = found
            means[run["name"]] = {"faces": run["faces"], **mean_scores(found)}
            predictions.append(_as_table(run["name"], test, probabilities))
    write_text(output / "metrics.json", json.dumps(means, indent=2) + "\n")
    write_text(output / "attributes.json", json.dumps(details, indent=2) + "\n")
    table = format_table(means) if means else "no labels, so no classifier and no scores"
    write_text(output / "table.txt", table + "\n")
    with replacing(output / "predictions.parquet") as temporary:
        empty = pa.table({"run": pa.array([], pa.string()), "key": pa.array([], pa.string())})
        pq.write_table(pa.concat_tables(predictions) if predictions else empty, temporary)
    print(table)


def _read_runs(finetuned: Path) -> list[dict[str, Any]]:
    file = finetuned / "runs.json"
    if not file.is_file():
        raise UserError(f"{file} is missing; `python -m training.run --stage finetune` makes it")
    runs = json.loads(file.read_text(encoding="utf-8"))
    assert isinstance(runs, list)
    return runs


def predict(
    model: Classifier, faces: Faces, input_size: int, batch_size: int, stream: Stream, title: str
) -> NDArray[np.float64]:
    """Probabilities, float64 (N, A), of all faces in the manifest's order."""
    place = device()
    model.to(place).to(memory_format=torch.channels_last)
    model.eval()
    bar = progress(title, len(faces), "faces")
    found = []
    with torch.inference_mode():
        for batch in load(faces, in_order(faces, batch_size), False, 1, stream):
            pictures = to_input(batch.images.to(place), input_size)
            found.append(model(pictures).float().sigmoid().double().cpu().numpy())
            bar.update(len(batch.indices))
    bar.close()
    return np.concatenate(found)


def _score(
    config: Config, folder: Path, val: Faces, test: Faces
) -> tuple[dict[str, dict[str, float | None]], NDArray[np.float64]]:
    state = checkpoint.load(folder / "classifier.pt")
    network = Network.model_validate(state["config"]["network"])
    model = Classifier(network, state["attributes"], state.get("groups"))
    model.load_state_dict(state["model"])
    size, batch = network.input_size, config.evaluate.batch_size
    on_val = predict(model, val, size, batch, config.stream, f"val {folder.name}") if len(val) else None
    on_test = predict(model, test, size, batch, config.stream, f"test {folder.name}")
    found: dict[str, dict[str, float | None]] = {}
    for column, name in enumerate(test.attribute_names):
        threshold = 0.5 if on_val is None else best_threshold(val.attributes[:, column], on_val[:, column])
        found[name] = {
            "threshold": threshold,
            **scores(test.attributes[:, column], on_test[:, column], threshold),
        }
    return found, on_test


def _majority(train: Faces, test: Faces) -> dict[str, dict[str, float | None]]:
    found: dict[str, dict[str, float | None]] = {}
    for column, name in enumerate(test.attribute_names):
        labels = train.attributes[:, column]
        known = labels[labels >= 0]
        share = float(known.mean()) if len(known) else 0.5
        found[name] = scores(test.attributes[:, column], np.full(len(test), share), 0.5)
    return found


def _as_table(run: str, test: Faces, probabilities: NDArray[np.float64]) -> pa.Table:
    columns: dict[str, Any] = {"run": [run] * len(test), "key": list(test.keys)}
    for column, name in enumerate(test.attribute_names):
        columns[name] = probabilities[:, column].astype(np.float32)
    return pa.table(columns)


def format_table(means: dict[str, dict[str, Any]]) -> str:
    """The headline table as plain text: a row per run, scores in percent."""
    titles = ["run", "faces", *(name.replace("_", " ") for name in SCORES)]
    rows = [titles]
    for name, mean in means.items():
        cells = ["-" if mean[score] is None else f"{100 * mean[score]:.1f}" for score in SCORES]
        rows.append([name, f"{mean['faces']:,}" if "faces" in mean else "", *cells])
    widths = [max(len(row[i]) for row in rows) for i in range(len(titles))]
    lines = []
    for name, *cells in rows:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *padded]))
    return "\n".join(lines)
