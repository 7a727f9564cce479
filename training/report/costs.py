"""What the stages cost in time and cores, from the records that they keep."""

import json
import os
from collections.abc import Sequence
from typing import Any

from common.layout import Layout
from common.page.formats import duration
from training.report.runs import Run


def cost_rows(layout: Layout, pretraining: dict[str, Any] | None, runs: Sequence[Run]) -> list[list[str]]:
    """Rows of stage, time, cores, core-hours, and their sum; a stage without a record is left out.

    Args:
        layout: the shards, whose ``stages.json`` has the records of the pipeline.
        pretraining: see `training.report.pretraining.read_pretraining`.
        runs: the fine-tuning runs.
    """
    path = layout.manifests / "stages.json"
    records = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    costs = [
        (f"{stage.capitalize()}, {record['images']:,} images", record["seconds"], record["workers"])
        for stage in ("ingest", "align", "parse")
        if (record := records.get(stage))
    ]
    cores = len(os.sched_getaffinity(0))
    if pretraining is not None:
        costs.append(("Pre-training", pretraining["seconds"], cores))
    costs += [(f"Fine-tuning, {run.name}", run.seconds, cores) for run in runs]
    rows = [
        [stage, duration(seconds), str(cores), f"{seconds * cores / 3600:.2f}"]
        for stage, seconds, cores in costs
    ]
    if len(rows) > 1:
        hours = sum(seconds * cores for _, seconds, cores in costs) / 3600
        rows.append(["Total", duration(sum(seconds for _, seconds, _ in costs)), "", f"{hours:.2f}"])
    return rows
