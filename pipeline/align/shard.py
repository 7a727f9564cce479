"""Align one planned shard: read its sources, warp the faces, write one tar and its record.

The hash of this module and of all that it imports is the code version of an aligned shard.
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from common.alignment.crops import Crop, aligned_crops
from common.alignment.detector import Face, detect_faces_of_each, load_detector
from common.alignment.recipe import Recipe
from common.hardware import hardware
from common.images import Photo, Refused, decode_photo
from common.shards import ShardWriter, encode_face, encode_metadata
from common.storage import Address
from pipeline.runner.planned_shards import ShardRows
from pipeline.runner.read_ahead import read_ahead
from pipeline.runner.shard_record import ShardRecord, worker_died, write_record
from pipeline.runner.shard_task import Advance, ShardTask
from pipeline.source import read_source

if TYPE_CHECKING:
    from facexlib.detection.retinaface import RetinaFace

SEVERAL_FACES: Final = "several-faces"
"""Notice of an image in which the detector found more than one face."""


GPU_PICTURES: Final = 16
"""Pictures that a GPU is given together; never measured, since no GPU was at hand."""

MOST_PIXELS: Final = 50_000_000
"""Of the pictures that are detected together, in memory at a time."""


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
        for row, faces in _aligned(task, rows):
            advance(1)
            if isinstance(faces, Refused):
                quarantined.append({"source": row["source"], "reason": faces.reason, "detail": faces.detail})
                continue
            for number, face in enumerate(faces, 1):
                key = row["key"] if number == 1 else f"{row['key']}-{number}"
                jpg = encode_face(face.image, task.recipe.align.jpeg_quality)
                writer.add(key, {"jpg": jpg, "json": encode_metadata(face.metadata)})
                samples.append({"key": key, "notices": face.notices})
    quarantined += [worker_died(row["source"]) for row in task.rows if row["source"] in excluded]
    write_record(task.tar, ShardRecord(task.fingerprint, samples, quarantined, task.code))


def _aligned(
    task: AlignTask, rows: Iterable[dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], list[AlignedFace] | Refused]]:
    """Each source with its faces, or with the reason why it has none, in the order of `rows`."""
    detector = _detector(task)
    for sources, photos in _decoded(task, rows, 1 if detector is None else pictures(hardware().device)):
        images = [photo.image for photo in photos if not isinstance(photo, Refused)]
        seen: Iterator[list[Face] | None] = repeat(None)
        if detector is not None and len(images) > 1:
            # Where the memory does not hold them together, each is detected alone.
            with suppress(torch.OutOfMemoryError):
                seen = iter(detect_faces_of_each(images, detector, task.recipe.align))
        for row, photo in zip(sources, photos, strict=True):
            if isinstance(photo, Refused):
                yield row, photo
                continue
            try:
                faces: list[AlignedFace] | Refused = _align(row, task, photo, detector, next(seen))
            except Refused as refused:
                faces = refused
            yield row, faces


def _decoded(
    task: AlignTask, rows: Iterable[dict[str, Any]], count: int
) -> Iterator[tuple[list[dict[str, Any]], list[Photo | Refused]]]:
    """Groups of at most `count` sources and their photos, or why there is none; of `MOST_PIXELS` and one."""
    sources: list[dict[str, Any]] = []
    photos: list[Photo | Refused] = []
    pixels = 0
    for row, data in read_ahead(partial(_read, task), rows):
        try:
            photo: Photo | Refused = _decode(row, task, data.result())
        except Refused as refused:
            photo = refused
        sources.append(row)
        photos.append(photo)
        pixels += 0 if isinstance(photo, Refused) else photo.image[..., 0].size
        if len(sources) == count or pixels > MOST_PIXELS:
            yield sources, photos
            sources, photos, pixels = [], [], 0
    if sources:
        yield sources, photos


def pictures(device: torch.device) -> int:
    """How many pictures are detected together; a CPU gains nothing by more than one."""
    return 1 if device.type == "cpu" else GPU_PICTURES


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
    return _align(row, task, _decode(row, task, data), _detector(task), None)


def _detector(task: AlignTask) -> "RetinaFace | None":
    return load_detector(task.recipe.align.detector, task.detector) if task.detector else None


def _decode(row: dict[str, Any], task: AlignTask, data: bytes) -> Photo:
    if hashlib.sha256(data).hexdigest() != row["sha256"]:
        raise Refused("changed", "the file's bytes are not those that were ingested; run ingest again")
    return decode_photo(data, task.recipe.max_pixels, task.recipe.min_side)


def _align(
    row: dict[str, Any],
    task: AlignTask,
    photo: Photo,
    detector: "RetinaFace | None",
    seen: list[Face] | None,
) -> list[AlignedFace]:
    """The faces of a photo; for `seen` see `find_faces`."""
    align = task.recipe.align
    crops = aligned_crops(photo.image, align, detector, seen=seen)
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
