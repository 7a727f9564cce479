"""What the stages cost in time and cores, from the records that they keep."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from common.layout import Layout
from common.page.formats import duration
from training.report.pretraining import Pretraining
from training.report.runs import Run

OFFLINE: Final = ("ingest", "align", "parse")
"""The stages of the pipeline, in their order."""


@dataclass(frozen=True)
class Cost:
    """A stage's wall clock in seconds, and the cores that it had."""

    stage: str
    seconds: float
    cores: int


def read_costs(layout: Layout, pretraining: Pretraining | None, runs: Sequence[Run]) -> list[Cost]:
    """The costs in the order of the stages; a stage without a record is left out."""
    path = layout.manifests / "stages.json"
    records = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    costs = [
        Cost(f"{stage.capitalize()}, {record['images']:,} images", record["seconds"], record["workers"])
        for stage in OFFLINE
        if (record := records.get(stage))
    ]
    cores = len(os.sched_getaffinity(0))
    if pretraining is not None:
        costs.append(Cost("Pre-training", pretraining.seconds, pretraining.cores or cores))
    return costs + [Cost(f"Fine-tuning, {run.name}", run.seconds, cores) for run in runs]


def cost_rows(costs: Sequence[Cost]) -> list[list[str]]:
    """Rows of the table: stage, time, cores, core-hours; and their sum."""
    rows = [
        [cost.stage, duration(cost.seconds), str(cost.cores), f"{cost.seconds * cost.cores / 3600:.2f}"]
        for cost in costs
    ]
    if len(rows) > 1:
        hours = sum(cost.seconds * cost.cores for cost in costs) / 3600
        rows.append(["Total", duration(sum(cost.seconds for cost in costs)), "", f"{hours:.2f}"])
    return rows
