"""The result page: reads what the stages wrote and hands it to `training.report.page`."""

import csv
import json
import math
import platform
import shlex
from collections import Counter
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray

from contract import manifest
from contract.config import PARAMS, Config, load
from contract.errors import UserError
from contract.files import write_text
from contract.layout import DEFAULT_SHARDS, SPLITS, Layout
from contract.shards import (
    BrokenSample,
    Extent,
    decode_face,
    decode_facts,
    decode_mask,
    decode_parts,
    read_extent,
)
from contract.version import git_commit
from training import checkpoint
from training.evaluate import MAJORITY
from training.exported import read_exported
from training.report.page import page
from training.report.results import Face, Mistake, Presence, Pretraining, Results, Run, Split
from training.resume import manifest_hash

FACES: Final = 12
"""Faces shown with their masks."""

PRESENCE_SAMPLES: Final = 300
"""Samples whose part counts are averaged."""

MISTAKES: Final = 6
"""Mistakes shown of each kind: yes instead of no, no instead of yes."""

RESAMPLES: Final = 400
"""Bootstrap samples of the test faces."""

PACKAGES: Final = (
    *("torch", "torchvision", "numpy", "opencv-python", "facexlib", "webdataset", "pyarrow", "dask"),
    *("scikit-learn", "torch-ema", "dvc", "dvclive", "pydantic"),
)
"""Packages on which the numbers may depend."""


def report(config: Config, layout: Layout, output: Path, file: Path) -> None:
    """Write the result page: one HTML file that loads nothing from anywhere.

    The same shards and results give the same bytes. Configuration values that are stored
    beside trained weights win over `config`, so the page says what was done.

    Args:
        config: the configuration.
        layout: where the shards and manifests lie.
        output: the folder of results, with ``finetune/``, ``evaluate/`` and, if there was
            pre-training, ``pretrain/``.
        file: where the page goes.

    Raises:
        UserError: a result or a manifest is missing, or a shard is broken.
    """
    write_text(file, page(read_results(config, layout, output)))
    print(f"report: {file}")


def read_results(config: Config, layout: Layout, output: Path) -> Results:
    """All that the page shows, from the manifests, the shards and the folder of results.

    Raises:
        UserError: a result or a manifest is missing, or a shard is broken.
    """
    samples = manifest.read(layout.require_samples())
    source = manifest.read(layout.source) if layout.source.is_file() else None
    refused: Counter[str] = Counter()
    if layout.quarantine.is_file():
        refused.update(manifest.read(layout.quarantine, ["reason"]).table["reason"].to_pylist())
    labels, splits = label_matrix(samples), np.array(samples.table["split"].to_pylist(), dtype=np.str_)
    runs, majority = _read_runs(output)
    shown = next((name for name in ("test", "train", *SPLITS) if (splits == name).any()), "test")
    faces = [_face(layout, samples, i) for i in _spread(np.flatnonzero(splits == shown), FACES)]
    found = _predictions(output, samples) if runs else {}
    test = np.flatnonzero((splits == "test") & (labels >= 0).any(axis=1))
    values = _used_config(config, output, runs)
    facts = {**samples.facts, **(source.facts if source else {})}
    values["data"].update(name=facts.get("dataset", config.data.name))
    values["data"].update(input=facts.get("root", config.data.input))
    return Results(
        dataset=values["data"]["name"],
        sources=source.table.num_rows if source else None,
        splits=_splits(samples, splits, labels),
        refused=sorted(refused.items(), key=lambda item: (-item[1], item[0])),
        faces=faces,
        faces_split=shown,
        presence=_presence(layout, samples),
        pretraining=_read_pretraining(output / "pretrain", values),
        runs=runs,
        majority=majority,
        test_faces=len(test),
        interval=_interval(runs, found, labels, test),
        mistakes=_mistakes(layout, samples, runs, found, labels, test),
        config=yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100),
        commands=_commands(config, layout, output, values["data"]["input"]),
        shards_sha256=manifest_hash(layout),
        versions=_versions(),
        commit=git_commit(PARAMS.parent),
    )


def label_matrix(samples: manifest.Manifest) -> NDArray[np.int8]:
    """The labels of all samples, int8 (N, A): 0 or 1, -1 where unknown."""
    columns = [np.asarray(samples.table[name].fill_null(-1)).astype(np.int8) for name in samples.attributes]
    return np.stack(columns, axis=1) if columns else np.empty((samples.table.num_rows, 0), np.int8)


def _splits(samples: manifest.Manifest, splits: NDArray[np.str_], labels: NDArray[np.int8]) -> list[Split]:
    known = np.asarray((labels >= 0).any(axis=1))
    shards = np.array(samples.table["shard"].to_pylist(), dtype=object)
    identities = np.array(samples.table["identity"].to_pylist(), dtype=object)
    found = []
    for name in SPLITS:
        rows = splits == name
        if rows.any():
            people = {person for person in identities[rows] if person is not None}
            found.append(
                Split(name, int(rows.sum()), int(known[rows].sum()), len(people), len(set(shards[rows])))
            )
    return found


def _spread(positions: NDArray[np.int64], count: int) -> list[int]:
    """At most `count` of the positions, evenly spaced."""
    step = np.arange(min(count, len(positions))) * len(positions) // max(1, min(count, len(positions)))
    return [int(position) for position in positions[step]]


def _member(layout: Layout, row: dict[str, Any], name: str) -> bytes:
    with (layout.shards / row["shard"]).open("rb") as stream:
        return read_extent(
            stream.fileno(), Extent(row[f"{name}.offset"], row[f"{name}.size"]), str(row["shard"])
        )


def _face(layout: Layout, samples: manifest.Manifest, position: int) -> Face:
    row = samples.table.slice(position, 1).to_pylist()[0]
    try:
        return Face(
            key=row["key"],
            image=decode_face(_member(layout, row, "jpg")),
            mask=decode_mask(_member(layout, row, "mask.png")),
            facts=decode_facts(_member(layout, row, "json")),
        )
    except BrokenSample as error:
        raise UserError(f"{layout.shards / row['shard']}, sample {row['key']}: {error}") from error


def _presence(layout: Layout, samples: manifest.Manifest) -> Presence | None:
    positions = _spread(np.arange(samples.table.num_rows), PRESENCE_SAMPLES)
    if not positions:
        return None
    found = []
    for row in samples.table.take(positions).to_pylist():
        try:
            found.append(decode_parts(_member(layout, row, "parts.npy")) > 0)
        except BrokenSample as error:
            raise UserError(f"{layout.shards / row['shard']}, sample {row['key']}: {error}") from error
    present = np.stack(found)
    return Presence(len(found), present.mean(axis=0), present.any(axis=(1, 2)).mean(axis=0))


def _json(path: Path, stage: str) -> Any:
    if not path.is_file():
        raise UserError(f"{path} is missing; `python -m training.run --stage {stage}` makes it")
    return json.loads(path.read_text(encoding="utf-8"))


def _read_runs(output: Path) -> tuple[list[Run], Run | None]:
    """The evaluated runs, fewest labels first and from scratch before pre-trained, and the majority class."""
    trained = _json(output / "finetune" / "runs.json", "finetune")
    if not trained:
        return [], None
    means = _json(output / "evaluate" / "metrics.json", "evaluate")
    details = _json(output / "evaluate" / "attributes.json", "evaluate")
    missing = [
        name for name in (MAJORITY, *(run["name"] for run in trained)) if name not in means.keys() & details
    ]
    if missing:
        raise UserError(
            f"{output / 'evaluate'} has no scores of {', '.join(missing)}; "
            "`python -m training.run --stage evaluate` makes them"
        )
    runs = [
        Run(
            **{name: run[name] for name in ("name", "initial", "labels", "faces", "steps", "seconds")},
            means=means[run["name"]],
            attributes=details[run["name"]],
        )
        for run in trained
    ]
    runs.sort(key=lambda run: (run.faces, run.labels, run.initial != "scratch"))
    return runs, Run(MAJORITY, MAJORITY, 0.0, 0, 0, 0.0, means[MAJORITY], details[MAJORITY])


def _predictions(output: Path, samples: manifest.Manifest) -> dict[str, NDArray[np.float64]]:
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


def _interval(
    runs: Sequence[Run],
    found: dict[str, NDArray[np.float64]],
    labels: NDArray[np.int8],
    test: NDArray[np.int64],
) -> tuple[float, float] | None:
    """The 95 % interval of the gain of the pair with the fewest labels."""
    pair = [run.name for run in runs if run.labels == runs[0].labels and run.name in found]
    if len(pair) != 2:
        return None
    scratch, pretrained = (found[name][test] for name in pair)
    return gain_interval(labels[test], scratch, pretrained)


def gain_interval(
    labels: NDArray[np.int8], before: NDArray[np.float64], after: NDArray[np.float64]
) -> tuple[float, float] | None:
    """How far chance in the choice of test faces moves a gain in mean average precision.

    The paired bootstrap: faces are drawn with replacement, the same for both.

    Args:
        labels: int8 (N, A), 0 or 1, -1 where unknown.
        before, after: probabilities, float64 (N, A).

    Returns:
        The 2.5th and 97.5th percentile of (mean average precision after - before); None if no
        attribute has both answers.
    """
    count = len(labels)
    if not count:
        return None
    draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    weights, gains = draws.astype(np.float64), []
    for column in range(labels.shape[1]):
        known = np.flatnonzero(labels[:, column] >= 0)
        truth = labels[known, column]
        if len(known) and truth.min() != truth.max():
            gains.append(
                _average_precision(truth, after[known, column], weights[:, known])
                - _average_precision(truth, before[known, column], weights[:, known])
            )
    if not gains:
        return None
    # A draw without a single positive has no average precision of that attribute.
    means = np.array(
        [np.mean(row[~np.isnan(row)]) for row in np.stack(gains, axis=1) if not np.isnan(row).all()]
    )
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def _average_precision(
    truth: NDArray[np.int8], guess: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Average precision per draw, float64 (R,); weights (R, N) say how often a face was drawn."""
    order = np.argsort(-guess, kind="stable")
    drawn = weights[:, order]
    positive = drawn * truth[order]
    precision = np.cumsum(positive, axis=1) / np.maximum(np.cumsum(drawn, axis=1), 1)
    total = positive.sum(axis=1)
    return np.where(total > 0, (positive * precision).sum(axis=1) / np.maximum(total, 1), np.nan)


def _mistakes(
    layout: Layout,
    samples: manifest.Manifest,
    runs: Sequence[Run],
    found: dict[str, NDArray[np.float64]],
    labels: NDArray[np.int8],
    test: NDArray[np.int64],
) -> tuple[Run | None, list[Mistake]]:
    """The most confident mistakes of the run with the most labels, pre-trained if there is one."""
    known = [run for run in runs if run.name in found]
    if not known:
        return None, []
    run = max(known, key=lambda run: (run.faces, run.initial == "pretrained"))
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
            face = _face(layout, samples, int(test[row]))
            name = samples.attributes[column]
            mistakes.append(Mistake(face, name, float(guess[row, column]), bool(label)))
    return run, mistakes


def _read_pretraining(folder: Path, values: dict[str, Any]) -> Pretraining | None:
    if not (folder / "metrics.json").is_file():
        return None
    metrics = _json(folder / "metrics.json", "pretrain")
    curves = {}
    for file in sorted((folder / "dvclive" / "plots" / "metrics" / "pretrain").glob("*.tsv")):
        with file.open(encoding="utf-8", newline="") as stream:
            rows = [row for row in csv.reader(stream, delimiter="\t") if len(row) == 2][1:]
        points = [(float(step), float(value)) for step, value in rows]
        points = [point for point in points if math.isfinite(point[1])]
        if points:
            curves[file.stem] = points
    tiles = values["network"]["tiles"]
    return Pretraining(
        metrics=metrics,
        batch_size=values["pretrain"]["batch_size"],
        curves=curves,
        chance={"rotation_accuracy": 1 / tiles**2, "angle_accuracy": 0.25},
    )


def _used_config(config: Config, output: Path, runs: Sequence[Run]) -> dict[str, Any]:
    """The configuration, with the sections that were stored beside the weights as they were then."""
    values = config.model_dump(mode="json")
    stored = [(output / "pretrain" / "pretrained.safetensors", ("network", "pretrain"))]
    stored += [
        (output / "finetune" / run.name / "classifier.pt", ("network", "finetune")) for run in runs[:1]
    ]
    for file, sections in stored:
        if file.is_file():
            read = read_exported if file.suffix == ".safetensors" else checkpoint.load
            kept = read(file)["config"]
            values.update({name: kept[name] for name in sections})
    return values


def _commands(config: Config, layout: Layout, output: Path, root: str) -> list[str]:
    if layout.shards == DEFAULT_SHARDS and output == Path("runs") and config == load():
        return ["dvc repro report"]
    shards, results = shlex.quote(str(layout.shards)), shlex.quote(str(output))
    return [
        f"python -m pipeline.parse --config config.yaml --input {shlex.quote(root)} --output {shards}",
        f"python -m training.run --config config.yaml --shards {shards} --output {results}",
    ]


def _versions() -> list[tuple[str, str]]:
    found = [("Python", platform.python_version())]
    for name in PACKAGES:
        try:
            found.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            continue
    return found
