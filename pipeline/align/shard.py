"""Align one planned shard: read its sources, warp the faces, write one tar and its record.

The hash of this module and of all that it imports is the code version of an aligned shard.
"""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from common.alignment.crops import Crop, aligned_crops
from common.alignment.detector import load_detector
from common.alignment.recipe import Recipe
from common.images import Refused, decode_photo
from common.shards import ShardWriter, encode_face, encode_metadata
from common.storage import Address
from pipeline.runner.planned_shards import ShardRows
from pipeline.runner.read_ahead import read_ahead
from pipeline.runner.shard_record import ShardRecord, worker_died, write_record
from pipeline.runner.shard_task import Advance, ShardTask
from pipeline.source import read_source

SEVERAL_FACES: Final = "several-faces"
"""Notice of an image in which the detector found more than one face."""


@dataclass(frozen=True)
class AlignTask(ShardTask):
    """Rows of ``source.parquet`` and everything that their result depends on.

    Attributes:
        root: the folder that source paths are relative to.
        rows: in the order in which the tar holds them.
        attributes: names of the label columns; None if labels, split and identity stay in the manifest alone.
        recipe: how photos become faces.
        detector: path of the detector's weights; None where the central square is taken.
    """

    root: Address
    rows: ShardRows
    attributes: tuple[str, ...] | None
    recipe: Recipe
    detector: Path | None


@dataclass(frozen=True)
class AlignedFace:
    """A face that becomes a sample.

    Attributes:
        image: uint8 RGB (S, S, 3).
        metadata: the content of its ``json`` member.
        notices: codes of what is unusual about it.
    """

    image: NDArray[np.uint8]
    metadata: dict[str, Any]
    notices: list[str]


def align_shard(task: AlignTask, excluded: frozenset[str], advance: Advance) -> None:
    """Write a tar of aligned faces and its record; `excluded` sources are quarantined unopened."""
    samples: list[dict[str, Any]] = []
    quarantined: list[dict[str, str]] = []
    with ShardWriter(task.tar) as writer:
        rows = (row for row in task.rows if row["source"] not in excluded)
        for row, data in read_ahead(partial(_read, task), rows):
            advance(1)
            try:
                faces = align_source(row, task, data.result())
            except Refused as refused:
                quarantined.append(
                    {"source": row["source"], "reason": refused.reason, "detail": refused.detail}
                )
                continue
            for number, face in enumerate(faces, 1):
                key = row["key"] if number == 1 else f"{row['key']}-{number}"
                jpg = encode_face(face.image, task.recipe.align.jpeg_quality)
                writer.add(key, {"jpg": jpg, "json": encode_metadata(face.metadata)})
                samples.append({"key": key, "notices": face.notices})
    quarantined += [worker_died(row["source"]) for row in task.rows if row["source"] in excluded]
    write_record(task.tar, ShardRecord(task.fingerprint, samples, quarantined, task.code))


def _read(task: AlignTask, row: dict[str, Any]) -> bytes:
    return read_source(task.root, row["source"])


def probe_sources(task: AlignTask, excluded: frozenset[str]) -> Iterator[str]:
    """Align each source by itself and discard the result; yields the source's path first."""
    for row in task.rows:
        if row["source"] not in excluded:
            yield row["source"]
            with suppress(Refused):
                align_source(row, task, _read(task, row))


def align_source(row: dict[str, Any], task: AlignTask, data: bytes) -> list[AlignedFace]:
    """The aligned faces of a source with these bytes: one, or with the policy ``all`` each, largest first.

    Raises:
        Refused: the source cannot become a sample.
    """
    if hashlib.sha256(data).hexdigest() != row["sha256"]:
        raise Refused("changed", "the file's bytes are not those that were ingested; run ingest again")
    align = task.recipe.align
    photo = decode_photo(data, task.recipe.max_pixels, task.recipe.min_side)
    detector = load_detector(align.detector, task.detector) if task.detector else None
    crops = aligned_crops(photo.image, align, detector)
    notices = [*photo.notices, *([SEVERAL_FACES] if (crops[0].detected or 1) > 1 else [])]
    bystander = row
    if not align.bystander_labels:
        bystander = {**row, **dict.fromkeys((*(task.attributes or ()), "identity"))}
    return [
        _aligned_face(crop, bystander if number else row, task.attributes, notices)
        for number, crop in enumerate(crops)
    ]


def _aligned_face(
    crop: Crop, row: dict[str, Any], attributes: tuple[str, ...] | None, notices: list[str]
) -> AlignedFace:
    face = crop.face
    metadata = {
        "source": row["source"],
        "sha256": row["sha256"],
        "faces": crop.detected,
        "box_score": None if face is None else round(face.score, 6),
        "landmarks": None if face is None else face.landmarks.round(3).tolist(),
        "matrix": crop.matrix.round(6).tolist(),
    }
    if attributes is not None:
        labels = {name: row[name] for name in attributes if row[name] is not None}
        metadata |= {"split": row["split"], "identity": row["identity"], "attributes": labels or None}
    return AlignedFace(crop.image, metadata, notices)
