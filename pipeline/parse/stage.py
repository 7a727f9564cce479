"""Parse every aligned shard and write the finished one; then the manifests."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any
from zlib import crc32

import numpy as np

from common import manifest
from common.alignment import recipe
from common.cell_counts import cell_class_counts
from common.config import Config
from common.errors import UserError
from common.layout import SPLITS, Layout
from common.shards import (
    ShardWriter,
    decode_face,
    decode_metadata,
    encode_cell_counts,
    encode_mask,
    encode_metadata,
    read_shard,
)
from common.storage import Address
from pipeline.parse.parser import ParserFile, find_parser, load_parser
from pipeline.runner.cluster import no_model
from pipeline.runner.quarantine import Refusals, table, worker_died
from pipeline.runner.shard_record import ShardRecord, fingerprint, read_record, write_record
from pipeline.runner.shard_runner import Advance, ShardTask, Stage, finish_shards

FORMAT_VERSION = 2
"""Raise it when the finished bytes or the record change for the same faces: old tars are stale then."""


@dataclass(frozen=True)
class ParseTask(ShardTask):
    """An aligned tar and all that the finished one depends on; its size counts faces."""

    aligned: Address
    config: Config
    parser: ParserFile


def parse(config: Config, layout: Layout) -> None:
    """Finish all shards that are not finished yet, then write the manifests and check the sums.

    Raises:
        UserError: there are no aligned shards, the parser's weights cannot be had, or too
            many sources are refused.
    """
    source = manifest.read(layout.source)
    tasks = plan(source, config, layout)
    refusals = Refusals(source.table.num_rows, config.quarantine.max_fraction)
    refusals.add(row for row in source.rows() if row["reason"])
    for task in tasks:
        refusals.add(_record(task.aligned).quarantined)
    load = partial(load_parser, tasks[0].parser) if tasks else no_model
    stage = Stage("parse", "faces", load, parse_shard, touch_faces)
    folder = (layout.shards / source.metadata["dataset"]).absolute()
    made = finish_shards(stage, tasks, folder, config, layout, refusals)
    samples, refused = write_manifests(source, tasks, layout)
    print(
        f"parse: {samples:,} samples in {layout.shards}/{source.metadata['dataset']}/, "
        f"{refused:,} quarantined, {source.table.num_rows:,} sources; "
        f"{len(tasks) - made} of {len(tasks)} shards were up to date"
    )


def plan(source: manifest.Manifest, config: Config, layout: Layout) -> list[ParseTask]:
    """The parse task of every planned shard, in the order of their names.

    Raises:
        UserError: a shard has not been aligned.
    """
    parser = find_parser(config)
    facts = [
        FORMAT_VERSION,
        config.parse.model_dump(mode="json"),
        parser.sha256,
        parser.class_map.model_dump(mode="json"),
    ]
    tasks = []
    for name in sorted({name for name in source.table["shard"].to_pylist() if name}):
        aligned = read_record(layout.aligned / name)
        if aligned is None:
            raise UserError(
                f"{layout.aligned / name} is missing; run `python -m pipeline.align` first, "
                "or name the set that has the aligned faces with --from"
            )
        tasks.append(
            ParseTask(
                tar=(layout.shards / name).absolute(),
                fingerprint=fingerprint(facts, aligned.fingerprint),
                size=len(aligned.samples),
                aligned=(layout.aligned / name).absolute(),
                config=config,
                parser=parser,
            )
        )
    return tasks


def parse_shard(task: ParseTask, left_out: frozenset[str], advance: Advance) -> None:
    """Make one finished tar and its record; faces of sources in `left_out` are dropped."""
    parse_faces = load_parser(task.parser)
    parse_config = task.config.parse
    samples: list[dict[str, Any]] = []
    with ShardWriter(task.tar) as writer:
        for batch in _batches(task.aligned, left_out, parse_config.batch_size):
            faces = np.stack([decode_face(members["jpg"]) for _, members in batch])
            masks, confidences = parse_faces(faces)
            for (key, members), mask, confidence in zip(batch, masks, confidences, strict=True):
                facts = decode_metadata(members["json"]) | {
                    "parser": parse_config.parser,
                    "parser_sha256": task.parser.sha256,
                    "parser_size": task.parser.size,
                    "confidence": [round(float(value), 4) for value in confidence],
                }
                finished = {
                    "jpg": members["jpg"],
                    "mask.png": encode_mask(mask),
                    "parts.npy": encode_cell_counts(cell_class_counts(mask, parse_config.grid)),
                    "json": encode_metadata(facts),
                }
                extents = writer.add(key, finished)
                seen = confidence[confidence > 0]
                samples.append(
                    {
                        "key": key,
                        "source": facts["source"],
                        "box_score": facts["box_score"],
                        "confidence": round(float(seen.mean()), 4),
                        **{f"{name}.offset": extent.offset for name, extent in extents.items()},
                        **{f"{name}.size": extent.size for name, extent in extents.items()},
                        **{f"{name}.crc32": crc32(data) for name, data in finished.items()},
                    }
                )
            advance(len(batch))
    quarantined = [worker_died(source) for source in sorted(left_out)]
    write_record(task.tar, ShardRecord(task.fingerprint, samples, quarantined))


def touch_faces(task: ParseTask, left_out: frozenset[str]) -> Iterator[str]:
    """Parse each face alone and keep nothing; yields its source before."""
    parse_faces = load_parser(task.parser)
    for _, members in read_shard(task.aligned):
        source = decode_metadata(members["json"])["source"]
        if source not in left_out:
            yield source
            parse_faces(decode_face(members["jpg"])[None])


def _batches(
    aligned: Address, left_out: frozenset[str], size: int
) -> Iterator[list[tuple[str, dict[str, bytes]]]]:
    batch: list[tuple[str, dict[str, bytes]]] = []
    for key, members in read_shard(aligned):
        if left_out and decode_metadata(members["json"])["source"] in left_out:
            continue
        batch.append((key, members))
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def write_manifests(source: manifest.Manifest, tasks: list[ParseTask], layout: Layout) -> tuple[int, int]:
    """Write ``shards.parquet`` and ``quarantine.parquet`` from the records of all shards.

    Returns:
        How many samples and how many quarantined inputs there are.

    Raises:
        RuntimeError: a source is neither in a sample nor quarantined, or both; a defect here.
    """
    planned = {row["source"]: row for row in source.rows() if row["key"]}
    samples: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = [
        {name: row[name] for name in ("source", "reason", "detail")} for row in source.rows() if row["reason"]
    ]
    for task in tasks:
        finished, aligned = _record(task.tar), _record(task.aligned)
        refused.extend([*aligned.quarantined, *finished.quarantined])
        notices = {row["key"]: row["notices"] for row in aligned.samples}
        for row in finished.samples:
            origin = planned[row["source"]]
            codes = sorted({*(origin["notices"] or "").split(), *notices[row["key"]]})
            samples.append({**origin, **row, "status": "ok", "notices": " ".join(codes) or None})
    kept = {row["source"] for row in samples}
    if len(kept) + len(refused) != source.table.num_rows:
        raise RuntimeError(
            f"{source.table.num_rows} sources, but {len(kept)} with samples and {len(refused)} quarantined"
        )
    fields, attributes = manifest.SAMPLE_FIELDS, source.attributes
    columns = {*fields.names, *attributes}
    facts = {"dataset": source.metadata["dataset"]}
    made_by = layout.aligned / facts["dataset"] / recipe.FILE
    if made_by.is_file():
        facts[recipe.FACT] = made_by.read_text(encoding="utf-8").strip()
    rows = ({name: row.get(name) for name in columns} for row in samples)
    manifest.write(layout.samples, fields, rows, attributes, facts)
    refused.sort(key=lambda row: row["source"])
    manifest.write(layout.quarantine, manifest.QUARANTINE_FIELDS, refused, metadata=facts)
    splits = Counter(row["split"] for row in samples)
    reasons = Counter(row["reason"] for row in refused)
    said = {row["source"]: row["notices"] or "" for row in samples}
    notices = Counter(code for codes in said.values() for code in codes.split())
    print(table({split: splits[split] for split in SPLITS if splits[split]}, reasons, notices))
    return len(samples), len(refused)


def _record(tar: Address) -> ShardRecord:
    record = read_record(tar)
    if record is None:
        raise UserError(f"{tar} vanished during the run; run the command again")
    return record
