"""Parse one aligned shard and write the finished one with its record.

The hash of this module and of all that it imports is part of the code version of a finished shard.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from typing import Any, Final
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from common.cell_counts import cell_class_counts
from common.hardware import hardware
from common.shards import (
    ShardWriter,
    decode_face,
    decode_metadata,
    encode_cell_counts,
    encode_features,
    encode_mask,
    encode_metadata,
)
from common.storage import Address
from pipeline.parse.aligned_faces import AlignedSample, read_faces
from pipeline.parse.batch_size import batch_size
from pipeline.parse.overlap import ahead
from pipeline.parse.parser import ParserFile, load_parser
from pipeline.runner.shard_record import ShardRecord, worker_died, write_record
from pipeline.runner.shard_task import Advance, ShardTask

AHEAD: Final = 2
"""Batches that a step of a worker may be ahead of the next step."""


@dataclass(frozen=True)
class ParseTask(ShardTask):
    """An aligned tar and everything that the finished one depends on; its size counts faces.

    Attributes:
        aligned: the aligned tar.
        stored: the finished tar that has its faces if they were dropped, see `read_faces`.
        parser: which network makes the masks.
        batch_size: faces per forward pass on CPUs.
        processes: how many share a GPU.
        grid: cells per side of the stored class counts.
    """

    aligned: Address
    stored: Address
    parser: ParserFile
    batch_size: int
    processes: int
    grid: int


def parse_shard(task: ParseTask, excluded: frozenset[str], advance: Advance) -> None:
    """Write a finished tar and its record; the faces of `excluded` sources are left out."""
    parse_faces = load_parser(task.parser)
    samples: list[dict[str, Any]] = []
    size = _batch_size(task.parser, task.batch_size, task.processes)
    decoded = ahead(_decoded(task, excluded, size), AHEAD)
    parsed = ahead(((batch, parse_faces(faces)) for batch, faces in decoded), AHEAD)
    with closing(decoded), closing(parsed), ShardWriter(task.tar) as writer:
        for batch, (masks, confidences, features) in parsed:
            for number, sample in enumerate(batch):
                encoded = {name: encode_features(values[number]) for name, values in features.items()}
                samples.append(
                    _write_sample(writer, sample, masks[number], confidences[number], encoded, task)
                )
            advance(len(batch))
    quarantined = [worker_died(source) for source in sorted(excluded)]
    numerics = task.parser.numerics
    write_record(task.tar, ShardRecord(task.fingerprint, samples, quarantined, task.code, numerics))


@cache
def _batch_size(parser: ParserFile, configured: int, processes: int) -> int:
    """See `batch_size`; measured once per process."""
    return batch_size(configured, hardware().device, load_parser(parser), parser.size, processes)


def probe_faces(task: ParseTask, excluded: frozenset[str]) -> Iterator[str]:
    """Parse each face by itself and discard the result; yields its source first."""
    parse_faces = load_parser(task.parser)
    for _, members in read_faces(task.aligned, task.stored):
        source = decode_metadata(members["json"])["source"]
        if source not in excluded:
            yield source
            parse_faces(decode_face(members["jpg"])[None])


def _write_sample(
    writer: ShardWriter,
    sample: AlignedSample,
    mask: NDArray[np.uint8],
    confidence: NDArray[np.float32],
    features: dict[str, bytes],
    task: ParseTask,
) -> dict[str, Any]:
    """Append a finished sample; returns what the manifest holds of it."""
    key, members = sample
    metadata = decode_metadata(members["json"]) | {
        "parser": task.parser.kind,
        "parser_sha256": task.parser.sha256,
        "parser_size": task.parser.size,
        "confidence": [round(float(value), 4) for value in confidence],
    }
    if task.parser.embedder:
        metadata["embedder_sha256"] = task.parser.embedder.sha256
    finished = {
        "jpg": members["jpg"],
        "mask.png": encode_mask(mask),
        "parts.npy": encode_cell_counts(cell_class_counts(mask, task.grid)),
        "json": encode_metadata(metadata),
        **features,
    }
    extents = writer.add(key, finished)
    return {
        "key": key,
        "source": metadata["source"],
        "box_score": metadata["box_score"],
        "confidence": round(float(confidence[confidence > 0].mean()), 4),
        **{f"{name}.offset": extent.offset for name, extent in extents.items()},
        **{f"{name}.size": extent.size for name, extent in extents.items()},
        **{f"{name}.crc32": crc32(data) for name, data in finished.items()},
    }


def _decoded(
    task: ParseTask, excluded: frozenset[str], size: int
) -> Iterator[tuple[list[AlignedSample], NDArray[np.uint8]]]:
    """Batches of samples, and their faces, uint8 (B, S, S, 3)."""
    for batch in _batches(task, excluded, size):
        yield batch, np.stack([decode_face(members["jpg"]) for _, members in batch])


def _batches(task: ParseTask, excluded: frozenset[str], size: int) -> Iterator[list[AlignedSample]]:
    batch: list[AlignedSample] = []
    for key, members in read_faces(task.aligned, task.stored):
        if excluded and decode_metadata(members["json"])["source"] in excluded:
            continue
        batch.append((key, members))
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
