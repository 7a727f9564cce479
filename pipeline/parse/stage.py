"""Parse every aligned shard and write the finished one; then the manifests.

One shard is one Dask task; no task knows of another.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from contract import manifest
from contract.config import Config
from contract.errors import UserError
from contract.layout import SPLITS, Layout
from contract.parts import count_parts
from contract.progress import progress
from contract.shards import (
    ShardWriter,
    decode_face,
    decode_facts,
    encode_facts,
    encode_mask,
    encode_parts,
    read_shard,
)
from pipeline.cluster import advance, connect, map_bounded
from pipeline.parse.parser import ParserFile, find_parser, load_parser
from pipeline.record import ShardRecord, fingerprint, read_record, remove_unplanned, write_record

FORMAT_VERSION = 2
"""Raise it when the finished bytes or the record change for the same faces: old tars are stale then."""


@dataclass(frozen=True)
class ParseTask:
    """One shard of work: an aligned tar and all that the finished one depends on."""

    aligned: Path
    tar: Path
    config: Config
    parser: ParserFile
    faces: int
    fingerprint: str


def parse(config: Config, layout: Layout) -> None:
    """Finish all shards that are not finished yet, then write the manifests and check the sums.

    Raises:
        UserError: there are no aligned shards, or the parser's weights cannot be had.
    """
    source = manifest.read(layout.source)
    tasks = plan(source, config, layout)
    remove_unplanned(layout.shards / source.facts["dataset"], {task.tar for task in tasks})
    stale = [task for task in tasks if not _finished(task)]
    total = sum(task.faces for task in tasks)
    if stale:
        bar = progress("parse", total, "faces", total - sum(task.faces for task in stale))
        with connect(config.cluster, len(stale)) as client:
            for _ in map_bounded(client, parse_shard, stale, config.cluster.in_flight, bar):
                pass
        bar.close()
    samples, refused = write_manifests(source, tasks, layout)
    print(
        f"parse: {samples:,} samples in {layout.shards}/{source.facts['dataset']}/, {refused:,} quarantined, "
        f"{samples + refused:,} sources; {len(tasks) - len(stale)} of {len(tasks)} shards were up to date"
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
                aligned=layout.aligned / name,
                tar=layout.shards / name,
                config=config,
                parser=parser,
                faces=len(aligned.samples),
                fingerprint=fingerprint(facts, aligned.fingerprint),
            )
        )
    return tasks


def _finished(task: ParseTask) -> bool:
    record = read_record(task.tar)
    return record is not None and record.fingerprint == task.fingerprint


def parse_shard(task: ParseTask) -> None:
    """Make one finished tar and its record."""
    parse_faces = load_parser(task.parser)
    parse_config = task.config.parse
    samples: list[dict[str, Any]] = []
    with ShardWriter(task.tar) as writer:
        for batch in _batches(task.aligned, parse_config.batch_size):
            faces = np.stack([decode_face(members["jpg"]) for _, members in batch])
            masks, confidences = parse_faces(faces)
            for (key, members), mask, confidence in zip(batch, masks, confidences, strict=True):
                facts = decode_facts(members["json"]) | {
                    "parser": parse_config.parser,
                    "parser_sha256": task.parser.sha256,
                    "parser_size": task.parser.size,
                    "confidence": [round(float(value), 4) for value in confidence],
                }
                finished = {
                    "jpg": members["jpg"],
                    "mask.png": encode_mask(mask),
                    "parts.npy": encode_parts(count_parts(mask, parse_config.grid)),
                    "json": encode_facts(facts),
                }
                extents = writer.add(key, finished)
                seen = confidence[confidence > 0]
                samples.append(
                    {
                        "key": key,
                        "box_score": facts["box_score"],
                        "confidence": round(float(seen.mean()), 4),
                        **{f"{name}.offset": extent.offset for name, extent in extents.items()},
                        **{f"{name}.size": extent.size for name, extent in extents.items()},
                        **{f"{name}.crc32": crc32(data) for name, data in finished.items()},
                    }
                )
            advance(len(batch))
    write_record(task.tar, ShardRecord(task.fingerprint, samples, []))


def _batches(aligned: Path, size: int) -> Iterator[list[tuple[str, dict[str, bytes]]]]:
    batch: list[tuple[str, dict[str, bytes]]] = []
    for sample in read_shard(aligned):
        batch.append(sample)
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
        RuntimeError: sources are not the sum of samples and quarantined, which is a defect here.
    """
    by_key = {row["key"]: row for row in source.rows() if row["key"]}
    samples: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = [
        {name: row[name] for name in ("source", "reason", "detail")} for row in source.rows() if row["reason"]
    ]
    for task in tasks:
        finished, aligned = read_record(task.tar), read_record(task.aligned)
        if finished is None or aligned is None:
            raise UserError(f"{task.tar} vanished while the manifests were written; run the command again")
        refused.extend(aligned.quarantined)
        samples.extend({**by_key[row["key"]], **row, "status": "ok"} for row in finished.samples)
    if len(samples) + len(refused) != source.table.num_rows:
        raise RuntimeError(
            f"{source.table.num_rows} sources, but {len(samples)} samples and {len(refused)} quarantined"
        )
    fields, attributes = manifest.SAMPLE_FIELDS, source.attributes
    columns = {*fields.names, *attributes}
    facts = {"dataset": source.facts["dataset"]}
    rows = ({name: row.get(name) for name in columns} for row in samples)
    manifest.write(layout.samples, fields, rows, attributes, facts)
    refused.sort(key=lambda row: row["source"])
    manifest.write(layout.quarantine, manifest.QUARANTINE_FIELDS, refused, facts=facts)
    print(_summary(samples, refused))
    return len(samples), len(refused)


def _summary(samples: list[dict[str, Any]], refused: list[dict[str, Any]]) -> str:
    splits = Counter(row["split"] for row in samples)
    reasons = Counter(row["reason"] for row in refused)
    lines = [f"  {split:<24}{splits[split]:>10,}" for split in SPLITS if splits[split]]
    lines += [f"  quarantined: {reason:<11}{count:>10,}" for reason, count in sorted(reasons.items())]
    return "\n".join(lines)
