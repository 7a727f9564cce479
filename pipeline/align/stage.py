"""Align every planned shard: read its sources, warp the faces, write one tar.

One shard is one Dask task; no task knows of another.
"""

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from contract import manifest
from contract.config import Config
from contract.layout import Layout
from contract.progress import progress
from contract.shards import ShardWriter, encode_face, encode_facts
from contract.storage import Address, address
from pipeline.align.detector import choose_face, detect_faces, load_detector
from pipeline.align.warp import FACE_TEMPLATE, central_square, similarity, warp
from pipeline.cluster import advance, connect, map_bounded
from pipeline.images import Refused, decode_photo
from pipeline.record import ShardRecord, fingerprint, read_record, remove_unplanned, write_record
from pipeline.source import read_source
from pipeline.weights import KNOWN, find

FORMAT_VERSION = 1
"""Raise it when the aligned bytes change for the same input, so that old tars count as stale."""


@dataclass(frozen=True)
class AlignTask:
    """One shard of work: rows of ``source.parquet`` and all that their result depends on."""

    tar: Address
    root: Address
    rows: list[dict[str, Any]]
    attributes: tuple[str, ...]
    config: Config
    detector: Path | None
    fingerprint: str


def align(config: Config, layout: Layout) -> None:
    """Align all shards of the plan that are not finished yet.

    Raises:
        UserError: there is no plan, or the detector's weights cannot be had.
    """
    source = manifest.read(layout.source)
    tasks = plan(source, config, layout)
    remove_unplanned(layout.aligned / source.facts["dataset"], {task.tar for task in tasks})
    stale = [task for task in tasks if not _finished(task)]
    done = sum(len(task.rows) for task in tasks) - sum(len(task.rows) for task in stale)
    total = sum(len(task.rows) for task in tasks)
    if stale:
        bar = progress("align", total, "images", done)
        with connect(config.cluster, len(stale)) as client:
            for _ in map_bounded(client, align_shard, stale, config.cluster.in_flight, bar):
                pass
        bar.close()
    records = [read_record(task.tar) for task in tasks]
    refused = sum(len(record.quarantined) for record in records if record)
    current = f"{len(tasks) - len(stale)} of {len(tasks)} shards were up to date"
    print(f"align: {total - refused:,} faces, {refused:,} refused; {current}")


def plan(source: manifest.Manifest, config: Config, layout: Layout) -> list[AlignTask]:
    """The align task of every planned shard, in the order of their names."""
    aligned = source.facts["aligned"] == "true"
    detects = config.align.mode == "detect" or (config.align.mode == "auto" and not aligned)
    detector = find(config.align.detector, config.weights) if detects else None
    shards: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in source.rows():
        if row["reason"] is None:
            shards[row["shard"]].append(row)
    facts = [
        FORMAT_VERSION,
        config.align.model_dump(mode="json", exclude={"mode"}),
        config.ingest.max_pixels,
        config.ingest.min_side,
        KNOWN[config.align.detector].sha256 if detector else None,
    ]
    return [
        AlignTask(
            tar=layout.aligned / name,
            root=address(source.facts["root"]),
            rows=shuffled(rows, config.ingest.seed),
            attributes=source.attributes,
            config=config,
            detector=detector,
            fingerprint=fingerprint(facts, rows),
        )
        for name, rows in sorted(shards.items())
    ]


def shuffled(rows: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """The rows of a shard in the fixed random order in which its tar holds them."""
    return [rows[index] for index in np.random.default_rng(seed).permutation(len(rows))]


def _finished(task: AlignTask) -> bool:
    record = read_record(task.tar)
    return record is not None and record.fingerprint == task.fingerprint


def align_shard(task: AlignTask) -> None:
    """Make one tar of aligned faces and its record."""
    samples: list[dict[str, Any]] = []
    quarantined: list[dict[str, str]] = []
    with ShardWriter(task.tar) as writer:
        for row in task.rows:
            advance(1)
            try:
                face, facts = align_source(row, task)
            except Refused as refused:
                quarantined.append(
                    {"source": row["source"], "reason": refused.reason, "detail": refused.detail}
                )
                continue
            members = {"jpg": encode_face(face, task.config.align.jpeg_quality), "json": encode_facts(facts)}
            writer.add(row["key"], members)
            samples.append({"key": row["key"]})
    write_record(task.tar, ShardRecord(task.fingerprint, samples, quarantined))


def align_source(row: dict[str, Any], task: AlignTask) -> tuple[np.ndarray, dict[str, Any]]:
    """The aligned face of one source, uint8 (S, S, 3), and the facts that its sample carries.

    Raises:
        Refused: the source cannot become a sample.
    """
    align_config = task.config.align
    try:
        data = read_source(task.root, row["source"])
    except OSError as error:
        raise Refused("unreadable", error.strerror or str(error)) from error
    if hashlib.sha256(data).hexdigest() != row["sha256"]:
        raise Refused("changed", "the file's bytes are not those that were ingested; run ingest again")
    image = decode_photo(data, task.config.ingest.max_pixels, task.config.ingest.min_side)
    score, landmarks = None, None
    if task.detector is None:
        matrix = central_square(image.shape[1], image.shape[0], align_config.size)
    else:
        faces = detect_faces(image, load_detector(align_config.detector, task.detector), align_config)
        face = choose_face(faces, image, align_config)
        matrix = similarity(face.landmarks, FACE_TEMPLATE * align_config.size)
        score, landmarks = face.score, face.landmarks.round(3).tolist()
    labels = {name: row[name] for name in task.attributes if row[name] is not None}
    facts = {
        "source": row["source"],
        "sha256": row["sha256"],
        "split": row["split"],
        "identity": row["identity"],
        "attributes": labels or None,
        "box_score": None if score is None else round(score, 6),
        "landmarks": landmarks,
        "matrix": matrix.round(6).tolist(),
    }
    return warp(image, matrix, align_config.size), facts
