"""The align stage: plan a task per shard, and align those that are not finished yet."""

from collections import defaultdict
from functools import partial
from typing import Any, Final

import numpy as np
import pyarrow.compute as pc

from common import manifest
from common.alignment.detector import load_detector
from common.alignment.recipe import RECIPE_FILE, Recipe
from common.code import code_hash
from common.config import Config
from common.files import write_text
from common.layout import Layout
from common.storage import address
from common.weights import KNOWN, find
from pipeline.align.shard import AlignTask, align_shard, probe_sources
from pipeline.runner.cluster import no_model
from pipeline.runner.quarantine import Refusals
from pipeline.runner.shard_record import fingerprint, read_record
from pipeline.runner.shard_runner import finish_shards
from pipeline.runner.shard_task import ShardStage

FORMAT_VERSION: Final = 2
"""Raise it when old tars must not be used any more, not even with ``--any-code``."""


def align(config: Config, layout: Layout, any_code: bool = False, prune: bool = False) -> None:
    """Align all shards of the plan that are not finished yet.

    Args:
        config: the configuration.
        layout: where the manifests and the aligned faces lie.
        any_code: accept finished shards that other code made.
        prune: delete shards that are not planned.

    Raises:
        UserError: there is no plan, the detector's weights cannot be obtained, or too many
            sources are refused.
    """
    source = manifest.read(layout.source)
    tasks = plan(source, config, layout)
    refusals = Refusals(source.table.num_rows, config.quarantine.max_fraction)
    refusals.add(source.table.filter(pc.is_valid(source.table["reason"])).to_pylist())
    detector = tasks[0].detector if tasks else None
    load = partial(load_detector, config.align.detector, detector) if detector else no_model
    stage = ShardStage("align", "images", load, align_shard, probe_sources)
    folder = (layout.aligned / source.metadata["dataset"]).absolute()
    made = finish_shards(stage, tasks, folder, config.cluster, layout.manifests, refusals, any_code, prune)
    if tasks:
        write_text(folder / RECIPE_FILE, tasks[0].recipe.model_dump_json() + "\n")
    records = [read_record(task.tar) for task in tasks]
    faces = sum(len(record.samples) for record in records if record)
    refused = sum(len(record.quarantined) for record in records if record)
    current = f"{len(tasks) - made} of {len(tasks)} shards were up to date"
    print(f"align: {faces:,} faces, {refused:,} refused; {current}")


def plan(source: manifest.Manifest, config: Config, layout: Layout) -> list[AlignTask]:
    """The align task of every planned shard, in the order of their names.

    Raises:
        UserError: the detector's weights cannot be obtained.
    """
    aligned = source.metadata["aligned"] == "true"
    detects = config.align.mode == "detect" or (config.align.mode == "auto" and not aligned)
    detector = find(config.align.detector, config.weights) if detects else None
    labels = config.ingest.labels_in_tars
    # A label that only the manifest holds makes no shard stale.
    names = ["source", "sha256", *(("split", "identity", *source.attributes) if labels else ())]
    shards: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in source.rows():
        if row["reason"] is None:
            shards[row["shard"]].append(row)
    manifest_only = set() if labels else {"bystander_labels"}
    settings = [
        FORMAT_VERSION,
        config.align.model_dump(mode="json", exclude={"mode", *manifest_only}),
        config.ingest.max_pixels,
        config.ingest.min_side,
        KNOWN[config.align.detector].sha256 if detector else None,
    ]
    return [
        AlignTask(
            tar=(layout.aligned / name).absolute(),
            fingerprint=fingerprint(settings, [[row[name] for name in names] for row in rows]),
            code=code_hash("pipeline.align.shard"),
            size=len(rows),
            root=address(source.metadata["root"]).absolute(),
            rows=_shuffled(rows, config.ingest.seed),
            attributes=source.attributes if labels else None,
            recipe=Recipe.of(config.align, config.ingest, detects),
            detector=detector.absolute() if detector else None,
        )
        for name, rows in sorted(shards.items())
    ]


def _shuffled(rows: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """The rows of a shard in the fixed random order in which its tar holds them."""
    return [rows[index] for index in np.random.default_rng(seed).permutation(len(rows))]
