"""The parse stage: plan a task per shard, parse those that are not finished yet, write the manifests."""

from dataclasses import replace
from functools import partial
from typing import Final

from common import manifest
from common.config import Config
from common.errors import UserError
from common.files import write_bytes
from common.freshness import code_hash, fingerprint
from common.hardware import announce
from common.layout import Layout
from common.parsing.find_parser import find_parser
from common.parsing.parser import load_parser
from common.retry import retried
from common.shards import shard_path
from common.storage import is_file, read_bytes
from pipeline.parse.manifests import update_manifests
from pipeline.parse.shard import ParseTask, parse_shard, probe_faces
from pipeline.runner.cluster import no_model
from pipeline.runner.finished_shards import FinishedShards
from pipeline.runner.local_workers import local_workers
from pipeline.runner.planned_shards import PlannedShards, read_planned
from pipeline.runner.shard_record import CHANGED, ShardStage
from pipeline.runner.shard_runner import finish_shards

FORMAT_VERSION: Final = 2  # Raise it when old tars must not be used any more, not even with ``--any-code``


def parse(config: Config, layout: Layout, any_code: bool = False, prune: bool = False) -> None:
    """Finish all shards that are not finished yet, write the manifests, and check that no source is lost.

    Raises:
        UserError: there are no aligned shards, no weights of the parser, or too many refused sources.
    """
    retry = partial(retried, minutes=config.stream.retry_minutes, stage="parse")
    planned: PlannedShards = retry(lambda: read_planned(layout.source, []))
    aligned: FinishedShards = retry(lambda: read_aligned(planned, layout))
    tasks = plan(planned, aligned, config, layout)
    load = partial(load_parser, tasks[0].parser) if tasks else no_model
    stage = ShardStage("parse", "faces", load, parse_shard, probe_faces)
    if tasks and config.cluster.scheduler is None:
        parser = tasks[0].parser
        announce("parse", parser.precision, parser.computes_in, local_workers(config.cluster).line)
    earlier = [aligned.shards[task.aligned.name] for task in tasks]
    made, finished = finish_shards(
        stage, tasks, planned, layout.shards, config, layout, any_code, prune, earlier
    )
    written = retry(lambda: update_manifests(planned, tasks, layout, aligned, finished))
    print(
        f"parse: {written.samples:,} samples in {layout.shards}/{planned.metadata['dataset']}/, "
        f"{written.refused:,} quarantined, {planned.sources:,} sources; "
        f"{len(tasks) - made} of {len(tasks)} shards were up to date"
    )


def read_aligned(planned: PlannedShards, layout: Layout) -> FinishedShards:
    """The finished shards of aligned faces.

    Raises:
        UserError: one is missing.
        OSError: the store does not answer.
    """
    aligned = FinishedShards(layout.aligned / planned.metadata["dataset"], layout, "align")
    for name in planned.shards:
        if aligned.find(tar := layout.aligned / name) is None:
            raise UserError(
                f"{tar} is missing; run `python -m pipeline.align` first, "
                "or name the set that has the aligned faces with --from"
            )
    aligned.update([])
    return aligned


def plan(planned: PlannedShards, aligned: FinishedShards, config: Config, layout: Layout) -> list[ParseTask]:
    """The parse task of every planned shard, in the order of their names.

    Raises:
        UserError: the parser's weights cannot be obtained.
    """
    parser = find_parser(config.parse, config.weights)
    code = code_hash("pipeline.parse.shard")
    settings = [
        FORMAT_VERSION,
        config.parse.model_dump(mode="json", exclude={"features_from"}),
        parser.sha256,
        parser.class_map.model_dump(mode="json"),
    ]
    for each in parser.embedders:
        settings += [each.name, each.sha256, each.input_format.model_dump(mode="json")]
    tasks = []
    for name in planned.shards:
        tar = shard_path(layout.aligned, name).absolute()
        faces = aligned.shards[tar.name]
        changed = [[row["source"]] for row in faces.quarantined if row["reason"] == CHANGED]
        tasks.append(
            ParseTask(
                tar=shard_path(layout.shards, name).absolute(),
                inputs=fingerprint(settings, faces.made_from["inputs"], *changed),
                code=fingerprint(code, faces.made_from["code"]),
                size=faces.samples,
                aligned=tar,
                parser=parser,
            )
        )
    return tasks


def make_sibling(origin: Layout, output: Layout) -> Layout:
    """Prepare `output` for the faces that `origin` has aligned, and return the layout to parse with.

    ``source.parquet`` is copied; the aligned faces stay where they are, and no photo is opened.

    Raises:
        UserError: `origin` has no manifest, or `output` is the same set or holds another data set.
    """
    dataset = manifest.read(origin.source, []).metadata.get("dataset")
    if output.shards.resolve() == origin.shards.resolve():
        raise UserError(f"{output.shards} is the set that --from names; give the new masks another --output")
    exists, content = is_file(output.source), read_bytes(origin.source)
    if exists and (present := manifest.read(output.source, []).metadata.get("dataset")) != dataset:
        raise UserError(
            f"{output.shards} holds the data set {present}, not {dataset}; "
            "give the new masks another --output"
        )
    if not exists or read_bytes(output.source) != content:
        write_bytes(output.source, content)
    return replace(output, aligned=origin.aligned)
