"""Align one planned shard: read its sources, warp the faces, write one tar and its record.

The hash of this module and of all that it imports is the code version of an aligned shard.
"""

import hashlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.alignment.crops import Crop, aligned_crops
from common.alignment.detector import FIRST_SIDE, load_detector
from common.alignment.recipe import Recipe
from common.images import decode_photo, is_image
from common.members import encode_face, encode_metadata
from common.photo import Photo, Refused
from common.shards import ShardWriter
from common.storage import Address, TransientError, is_local
from pipeline.runner.planned_shards import ShardRows
from pipeline.runner.prefetch import read_ahead
from pipeline.runner.shard_record import CHANGED, Advance, ShardTask, crcs, worker_died, write_record
from pipeline.source import read_source


@dataclass(frozen=True)
class AlignTask(ShardTask):
    """Rows of ``source.parquet`` and everything that their result depends on."""

    root: Address  # the folder that source paths are relative to
    rows: ShardRows  # in the order in which the tar holds them
    recipe: Recipe  # how photos become faces
    detector: Path | None  # path of the detector's weights; None where the central square is taken


def align_shard(task: AlignTask, excluded: frozenset[str], advance: Advance) -> None:
    """Write a tar of aligned faces and its record; `excluded` sources are quarantined unopened."""
    samples: list[dict[str, Any]] = []
    quarantined: list[dict[str, str]] = []
    with ShardWriter(task.tar) as writer:
        rows = (row for row in task.rows if row["source"] not in excluded)
        for row, notices, crops in _aligned(task, rows):
            advance(1)
            if isinstance(crops, Refused):
                quarantined.append({"source": row["source"], "reason": crops.reason, "detail": crops.detail})
                continue
            for number, crop in enumerate(crops, 1):
                key = row["key"] if number == 1 else f"{row['key']}-{number}"
                members = {"jpg": encode_face(crop.image), "json": encode_metadata(_metadata(crop, row))}
                writer.add(key, members)
                samples.append({"key": key, "notices": notices, **crcs(members)})
    quarantined += [worker_died(row["source"]) for row in task.rows if row["source"] in excluded]
    write_record(task, samples, quarantined)


def _aligned(
    task: AlignTask, rows: Iterable[dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], list[str], list[Crop] | Refused]]:
    """Each source, its notices, and its faces or the reason why it has none, in the order of `rows`."""
    detector = load_detector(task.recipe.align.detector, task.detector) if task.detector else None
    for row, data in read_ahead(lambda row: read_source(task.root, row["source"]), rows):
        try:
            photo = _decode(row, task, data.result())
            crops = aligned_crops(photo, task.recipe.align, detector)
        except Refused as refused:
            yield row, [], refused
        else:
            several = ["several-faces"] if (crops[0].detected or 1) > 1 else []
            yield row, [*photo.notices, *several], crops


def _decode(row: dict[str, Any], task: AlignTask, data: bytes) -> Photo:
    """The photo of a source; one of other bytes than were ingested is read again before it is refused."""
    if hashlib.sha256(data).hexdigest() != row["sha256"]:
        first, data = data, read_source(task.root, row["source"])
    if hashlib.sha256(data).hexdigest() != row["sha256"]:
        if not is_local(task.root) and (data != first or not is_image(io.BytesIO(data))):
            raise TransientError(f"{task.root}/{row['source']}: the store answers with other bytes")
        raise Refused(CHANGED, "the file's bytes are not those that were ingested; run ingest again")
    return decode_photo(data, task.recipe.max_pixels, FIRST_SIDE if task.detector else None)


def probe_sources(task: AlignTask, excluded: frozenset[str]) -> Iterator[str]:
    """Align each source by itself and discard the result; yields the source's path first."""
    for row in task.rows:
        if row["source"] not in excluded:
            yield row["source"]
            for _ in _aligned(task, [row]):
                pass


def _metadata(crop: Crop, row: dict[str, Any]) -> dict[str, Any]:
    face = crop.face
    return {
        "source": row["source"],
        "sha256": row["sha256"],
        "faces": crop.detected,
        "box_score": None if face is None else round(face.score, 6),
        "landmarks": None if face is None else face.landmarks.round(3).tolist(),
        "matrix": crop.matrix.round(6).tolist(),
    }
