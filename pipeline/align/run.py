"""The align stage: plan a task per shard, and align those that are not finished yet."""

from functools import partial
from typing import Final

from common.alignment.detector import load_detector
from common.alignment.recipe import RECIPE_FILE, Recipe
from common.config import Config
from common.files import write_text
from common.freshness import code_hash, fingerprint
from common.layout import Layout
from common.retry import retried
from common.shards import shard_path
from common.storage import address
from common.weights import KNOWN, find
from pipeline.align.shard import AlignTask, align_shard, probe_sources
from pipeline.runner.cluster import no_model
from pipeline.runner.planned_shards import PlannedShards, read_planned
from pipeline.runner.shard_record import ShardStage
from pipeline.runner.shard_runner import finish_shards

FORMAT_VERSION: Final = 2  # Raise it when old tars must not be used any more, not even with ``--any-code``


def align(config: Config, layout: Layout, any_code: bool = False, prune: bool = False) -> None:
    """Align all shards of the plan that are not finished yet; see `finish_shards`.

    Raises:
        UserError: there is no plan, the weights cannot be obtained, or too many sources are refused.
    """
    retry = partial(retried, minutes=config.stream.retry_minutes, stage="align")
    planned: PlannedShards = retry(lambda: read_plan(layout))
    tasks = plan(planned, config, layout)
    detector = tasks[0].detector if tasks else None
    load = partial(load_detector, config.align.detector, detector) if detector else no_model
    stage = ShardStage("align", "images", load, align_shard, probe_sources)
    made, finished = finish_shards(stage, tasks, planned, layout.aligned, config, layout, any_code, prune)
    if tasks:
        recipe = tasks[0].recipe.model_dump_json() + "\n"
        retry(lambda: write_text(tasks[0].tar.with_name(RECIPE_FILE), recipe))
    records = [finished.shards.get(task.tar.name) for task in tasks]
    faces = sum(record.samples for record in records if record)
    refused = sum(len(record.quarantined) for record in records if record)
    current = f"{len(tasks) - made} of {len(tasks)} shards were up to date"
    print(f"align: {faces:,} faces, {refused:,} refused; {current}")


def read_plan(layout: Layout) -> PlannedShards:
    """The columns of ``source.parquet`` that aligned shards depend on; labels make no shard stale.

    Raises:
        UserError: there is no plan.
    """
    return read_planned(layout.source, ("source", "sha256"))


def plan(planned: PlannedShards, config: Config, layout: Layout) -> list[AlignTask]:
    """The align task of every planned shard, in the order of their names.

    Raises:
        UserError: the detector's weights cannot be obtained.
    """
    aligned = planned.metadata["aligned"] == "true"
    detects = config.align.mode == "detect" or (config.align.mode == "auto" and not aligned)
    detector = find(config.align.detector, config.weights) if detects else None
    settings = [
        FORMAT_VERSION,
        config.align.model_dump(mode="json", exclude={"mode", "bystander_labels"}),
        config.ingest.max_pixels,
        KNOWN[config.align.detector].sha256 if detector else None,
    ]
    code, recipe = code_hash("pipeline.align.shard"), Recipe.of(config.align, config.ingest, detects)
    root = address(planned.metadata["root"]).absolute()
    return [
        AlignTask(
            tar=shard_path(layout.aligned, name).absolute(),
            inputs=fingerprint(settings, [[row["source"], row["sha256"]] for row in rows]),
            code=code,
            size=len(rows),
            root=root,
            rows=rows.shuffled(config.ingest.seed),
            recipe=recipe,
            detector=detector.absolute() if detector else None,
        )
        for name, rows in planned.shards.items()
    ]
