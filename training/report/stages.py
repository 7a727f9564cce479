"""What the result page shows of training itself: curves, time, and cost."""

import csv
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from common.layout import Layout
from training.report.results import Cost, Pretraining, Run
from training.report.runs import read_json

OFFLINE: Final = ("ingest", "align", "parse")
"""The offline stages, in their order."""


def read_pretraining(folder: Path, values: dict[str, Any]) -> Pretraining | None:
    """Stage 1 from its folder; None if there was none. `values` is the configuration that it had."""
    if not (folder / "metrics.json").is_file():
        return None
    metrics = read_json(folder / "metrics.json", "pretrain")
    curves = read_curves(folder / "dvclive" / "plots" / "metrics" / "pretrain")
    tiles = values["network"]["tiles"]
    return Pretraining(
        metrics=metrics,
        batch_size=values["pretrain"]["batch_size"],
        curves=curves,
        chance={"rotation_accuracy": 1 / tiles**2, "angle_accuracy": 0.25},
    )


def read_curves(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """DVCLive's curves in a folder, (step, value) by name; broken lines and infinite values are left out."""
    curves = {}
    for file in sorted(folder.glob("*.tsv")):
        with file.open(encoding="utf-8", newline="") as stream:
            rows = [row for row in csv.reader(stream, delimiter="\t") if len(row) == 2][1:]
        points = [(float(step), float(value)) for step, value in rows]
        points = [point for point in points if math.isfinite(point[1])]
        if points:
            curves[file.stem] = points
    return curves


def read_finetuning(output: Path, runs: Sequence[Run]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """The curves of stage 2 by run, for the runs that kept some."""
    found = {}
    for run in runs:
        folders = sorted(
            {file.parent for file in (output / "finetune" / run.name / "dvclive" / "plots").rglob("*.tsv")}
        )
        curves = {name: points for folder in folders for name, points in read_curves(folder).items()}
        if curves:
            found[run.name] = curves
    return found


def read_costs(layout: Layout, pretraining: Pretraining | None, runs: Sequence[Run]) -> list[Cost]:
    """Time per stage from the records that the stages keep; a stage without one is left out."""
    costs = []
    place = layout.manifests / "stages.json"
    recorded: Mapping[str, Any] = json.loads(place.read_text(encoding="utf-8")) if place.is_file() else {}
    for stage in OFFLINE:
        if stage in recorded:
            entry = recorded[stage]
            costs.append(
                Cost(stage.capitalize(), entry["seconds"], entry["workers"], f"{entry['images']:,} pictures")
            )
    cores = len(os.sched_getaffinity(0))
    if pretraining is not None:
        used = int(pretraining.metrics.get("threads") or cores)
        costs.append(Cost("Pre-training", pretraining.metrics["seconds"], used, ""))
    for run in runs:
        costs.append(Cost("Fine-tuning", run.seconds, cores, run.name))
    return costs
