"""Evaluation on the test split: thresholds from val, majority class and scratch beside."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.config import Config
from common.errors import UserError
from common.files import replacing, write_text
from common.layout import Layout
from common.pipeline_config import Stream
from common.progress import progress
from training.data.loader import load
from training.data.sampler import sequential_batches
from training.data.samples import Samples, read_samples
from training.engine.device import default_device
from training.evaluate.metrics import SCORES, thresholds
from training.evaluate.scoring import MAJORITY, Judge, Scored, intervals, write_plots
from training.models.classifier import Classifier, read_classifier
from training.models.inference import predict_logits

__all__ = ["MAJORITY", "evaluate", "format_table", "predict"]


def evaluate(config: Config, layout: Layout, finetuned: Path, output: Path) -> None:
    """Score every fine-tuned run; write means, scores per attribute, and every prediction.

    ``metrics.json`` holds means by run name, ``attributes.json`` scores, intervals and thresholds per
    run and attribute, ``intervals.json`` the intervals of the means, gains and gaps (see
    `training.evaluate.scoring`), ``predictions.parquet`` a row per run and test face, ``table.txt`` the table
    that is printed, ``plots/`` what ``dvc plots`` draws.

    Raises:
        UserError: the fine-tuning results are missing, or no test face has a label.
    """
    runs = _read_runs(finetuned)
    output.mkdir(parents=True, exist_ok=True)
    scored: dict[str, Scored] = {}
    predictions: list[pa.Table] = []
    if runs:
        train, val, test = (read_samples(layout, (split,)).labelled() for split in ("train", "val", "test"))
        if not len(test):
            raise UserError("no face of the test split has a label, so there is nothing to evaluate on")
        judge = Judge(test, config.evaluate)
        scored[MAJORITY] = judge.score(np.tile(_shares(train), (len(test), 1)), None)
        for run in runs:
            on_val, on_test = _predict(config, finetuned / run["name"], val, test)
            cut = thresholds(val.attributes, on_val)
            scored[run["name"]] = judge.score(on_test, cut)
            predictions.append(_as_table(run["name"], test, on_test))
    faces = {run["name"]: run["faces"] for run in runs}
    means = {
        name: {**({"faces": faces[name]} if name in faces else {}), **each.means}
        for name, each in scored.items()
    }
    _write_json(output / "metrics.json", means)
    _write_json(output / "attributes.json", {name: each.attributes for name, each in scored.items()})
    _write_json(output / "intervals.json", intervals(scored, runs))
    write_plots(output / "plots", runs, scored)
    table = format_table(means) if means else "no labels, so no classifier and no scores"
    write_text(output / "table.txt", table + "\n")
    with replacing(output / "predictions.parquet") as temporary:
        empty = pa.table({"run": pa.array([], pa.string()), "key": pa.array([], pa.string())})
        pq.write_table(pa.concat_tables(predictions) if predictions else empty, temporary)
    print(table)


def _write_json(file: Path, values: Any) -> None:
    write_text(file, json.dumps(values, indent=2) + "\n")


def _read_runs(finetuned: Path) -> list[dict[str, Any]]:
    file = finetuned / "runs.json"
    if not file.is_file():
        raise UserError(f"{file} is missing; `python -m training.run --stage finetune` makes it")
    runs = json.loads(file.read_text(encoding="utf-8"))
    assert isinstance(runs, list)
    return runs


def predict(
    model: Classifier, faces: Samples, batch_size: int, stream: Stream, title: str
) -> NDArray[np.float64]:
    """Probabilities, float64 (N, A), of all faces in the manifest's order."""
    device = default_device()
    model.to(device).to(memory_format=torch.channels_last)
    bar = progress(title, len(faces), "faces")

    def images() -> Iterator[Tensor]:
        for batch in load(faces, sequential_batches(faces, batch_size), {"jpg"}, 1, stream):
            yield batch.images
            bar.update(len(batch.indices))

    logits = predict_logits(model, images(), device)
    bar.close()
    return torch.from_numpy(logits).sigmoid().double().numpy()


def _predict(
    config: Config, folder: Path, val: Samples, test: Samples
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64]]:
    """Probabilities of a run on val (None without val faces) and on test, which is read this once."""
    model = read_classifier(folder / "classifier.pt")
    batch = config.evaluate.batch_size
    on_val = predict(model, val, batch, config.stream, f"val {folder.name}") if len(val) else None
    return on_val, predict(model, test, batch, config.stream, f"test {folder.name}")


def _shares(train: Samples) -> NDArray[np.float64]:
    """The share of yes per attribute, float64 (A,); one half where no label is known."""
    known = train.attributes >= 0
    count = known.sum(axis=0)
    return np.where(count > 0, (train.attributes * known).sum(axis=0) / np.maximum(count, 1), 0.5)


def _as_table(run: str, test: Samples, probabilities: NDArray[np.float64]) -> pa.Table:
    """Run, key, identity; per attribute the probability, and the label as NAME.label, null if unknown."""
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
