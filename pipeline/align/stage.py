"""Align every planned shard: read its sources, warp the faces, write one tar."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from common import manifest
from common.alignment import recipe
from common.alignment.crops import Crop, aligned_crops
from common.alignment.detector import load_detector
from common.config import Config
from common.files import write_text
from common.images import Refused, decode_photo
from common.layout import Layout
from common.shards import ShardWriter, encode_face, encode_metadata
from common.storage import Address, address
from common.weights import KNOWN, find
from pipeline.runner.cluster import no_model
from pipeline.runner.quarantine import Refusals, worker_died
from pipeline.runner.shard_record import ShardRecord, fingerprint, read_record, write_record
from pipeline.runner.shard_runner import Advance, ShardTask, Stage, finish_shards
from pipeline.source import read_source

FORMAT_VERSION = 2
"""Raise it when the aligned bytes or the record change for the same input: old tars are stale then."""

SEVERAL_FACES: Final = "several-faces"
"""Notice of a picture in which the detector found more than one face."""


@dataclass(frozen=True)
class AlignTask(ShardTask):
    """Rows of ``source.parquet`` and all that their result depends on."""

    root: Address
    rows: list[dict[str, Any]]
    attributes: tuple[str, ...]
    config: Config
    detector: Path | None


@dataclass(frozen=True)
class AlignedFace:
    """A face that becomes a sample.

    Attributes:
        image: uint8 RGB (S, S, 3).
        facts: what its sample says of it.
    """

    image: NDArray[np.uint8]
    facts: dict[str, Any]


def align(config: Config, layout: Layout) -> None:
    """Align all shards of the plan that are not finished yet.

    Raises:
        UserError: there is no plan, the detector's weights cannot be had, or too many
            sources are refused.
    """
    source = manifest.read(layout.source)
    tasks = plan(source, config, layout)
    refusals = Refusals(source.table.num_rows, config.quarantine.max_fraction)
    refusals.add(row for row in source.rows() if row["reason"])
    detector = tasks[0].detector if tasks else None
    load = partial(load_detector, config.align.detector, detector) if detector else no_model
    stage = Stage("align", "images", load, align_shard, touch_sources)
    folder = (layout.aligned / source.metadata["dataset"]).absolute()
    made = finish_shards(stage, tasks, folder, config, layout, refusals)
    made_by = recipe.Recipe.of(config.align, config.ingest, detector is not None)
    write_text(folder / recipe.FILE, made_by.model_dump_json() + "\n")
    records = [read_record(task.tar) for task in tasks]
    faces = sum(len(record.samples) for record in records if record)
    refused = sum(len(record.quarantined) for record in records if record)
    current = f"{len(tasks) - made} of {len(tasks)} shards were up to date"
    print(f"align: {faces:,} faces, {refused:,} refused; {current}")


def plan(source: manifest.Manifest, config: Config, layout: Layout) -> list[AlignTask]:
    """The align task of every planned shard, in the order of their names."""
    aligned = source.metadata["aligned"] == "true"
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
            tar=(layout.aligned / name).absolute(),
            fingerprint=fingerprint(facts, rows),
            size=len(rows),
            root=address(source.metadata["root"]).absolute(),
            rows=shuffled(rows, config.ingest.seed),
            attributes=source.attributes,
            config=config,
            detector=detector.absolute() if detector else None,
        )
        for name, rows in sorted(shards.items())
    ]


def shuffled(rows: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """The rows of a shard in the fixed random order in which its tar holds them."""
    return [rows[index] for index in np.random.default_rng(seed).permutation(len(rows))]


def align_shard(task: AlignTask, left_out: frozenset[str], advance: Advance) -> None:
    """Make one tar of aligned faces and its record; sources in `left_out` are quarantined unopened."""
    samples: list[dict[str, Any]] = []
    quarantined: list[dict[str, str]] = []
    with ShardWriter(task.tar) as writer:
        for row in task.rows:
            advance(1)
            if row["source"] in left_out:
                quarantined.append(worker_died(row["source"]))
                continue
            try:
                faces = align_source(row, task)
            except Refused as refused:
                quarantined.append(
                    {"source": row["source"], "reason": refused.reason, "detail": refused.detail}
                )
                continue
            for number, face in enumerate(faces, 1):
                key = row["key"] if number == 1 else f"{row['key']}-{number}"
                jpg = encode_face(face.image, task.config.align.jpeg_quality)
                writer.add(key, {"jpg": jpg, "json": encode_metadata(face.facts)})
                notices = [SEVERAL_FACES] if (face.facts["faces"] or 1) > 1 else []
                samples.append({"key": key, "notices": notices})
    write_record(task.tar, ShardRecord(task.fingerprint, samples, quarantined))


def touch_sources(task: AlignTask, left_out: frozenset[str]) -> Iterator[str]:
    """Align each source alone and keep nothing; yields its path before."""
    for row in task.rows:
        if row["source"] not in left_out:
            yield row["source"]
            with suppress(Refused):
                align_source(row, task)


def align_source(row: dict[str, Any], task: AlignTask) -> list[AlignedFace]:
    """The aligned faces of one source: one, or all with that policy, largest first.

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
    detector = load_detector(align_config.detector, task.detector) if task.detector else None
    return [_sample(crop, row, task) for crop in aligned_crops(image, align_config, detector)]


def _sample(crop: Crop, row: dict[str, Any], task: AlignTask) -> AlignedFace:
    labels = {name: row[name] for name in task.attributes if row[name] is not None}
    face = crop.face
    facts = {
        "source": row["source"],
        "sha256": row["sha256"],
        "split": row["split"],
        "identity": row["identity"],
        "attributes": labels or None,
        "faces": crop.found,
        "box_score": None if face is None else round(face.score, 6),
        "landmarks": None if face is None else face.landmarks.round(3).tolist(),
        "matrix": crop.matrix.round(6).tolist(),
    }
    return AlignedFace(crop.image, facts)
