"""Parse one aligned shard and write the finished one with its record.

The hash of this module and of all that it imports is part of the code version of a finished shard.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from tarfile import TarError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.cell_counts import GRID, cell_class_counts
from common.errors import UserError
from common.members import (
    BrokenSample,
    decode_face,
    decode_metadata,
    encode_array,
    encode_mask,
    encode_metadata,
)
from common.parsing.parser import ParserFile, faces_per_pass, load_parser
from common.shards import ShardWriter, read_shard
from common.storage import Address, TransientError, is_local
from pipeline.runner.prefetch import ahead
from pipeline.runner.shard_record import Advance, ShardTask, crcs, read_record, worker_died, write_record

# The key of an aligned face, and its members ``jpg`` and ``json``.
AlignedSample = tuple[str, dict[str, bytes]]


@dataclass(frozen=True)
class ParseTask(ShardTask):
    """An aligned tar and everything that the finished one depends on; its size counts faces."""

    aligned: Address  # the aligned tar
    parser: ParserFile  # which network makes the masks


def parse_shard(task: ParseTask, excluded: frozenset[str], advance: Advance) -> None:
    """Write a finished tar and its record; the faces of `excluded` sources are left out."""
    parse_faces = load_parser(task.parser)
    samples: list[dict[str, Any]] = []
    decoded = ahead(_decoded(task, excluded, faces_per_pass()), 2)
    parsed = ahead(((batch, parse_faces(faces)) for batch, faces in decoded), 2)
    with closing(decoded), closing(parsed), ShardWriter(task.tar) as writer:
        for batch, (masks, confidences, features) in parsed:
            for number, sample in enumerate(batch):
                encoded = {name: encode_array(values[number]) for name, values in features.items()}
                samples.append(
                    _write_sample(writer, sample, masks[number], confidences[number], encoded, task)
                )
            advance(len(batch))
    write_record(task, samples, [worker_died(source) for source in sorted(excluded)], task.parser.backend)


def probe_faces(task: ParseTask, excluded: frozenset[str]) -> Iterator[str]:
    """Parse each face by itself and discard the result; yields its source first."""
    parse_faces = load_parser(task.parser)
    for _, members in read_faces(task.aligned):
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
    key, members = sample
    metadata = decode_metadata(members["json"]) | {
        "parser": task.parser.kind,
        "parser_sha256": task.parser.sha256,
        "parser_size": task.parser.size,
        "confidence": [round(float(value), 4) for value in confidence],
    }
    if task.parser.embedders:
        metadata["embedders"] = {each.name: each.sha256 for each in task.parser.embedders}
    finished = {
        "jpg": members["jpg"],
        "mask.png": encode_mask(mask),
        "parts.npy": encode_array(cell_class_counts(mask, GRID)),
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
        **crcs(finished),
    }


def _decoded(
    task: ParseTask, excluded: frozenset[str], size: int
) -> Iterator[tuple[list[AlignedSample], NDArray[np.uint8]]]:
    samples = (
        sample
        for sample in read_faces(task.aligned)
        if not excluded or decode_metadata(sample[1]["json"])["source"] not in excluded
    )
    while batch := list(islice(samples, size)):
        yield batch, np.stack([decode_face(members["jpg"]) for _, members in batch])


def read_faces(aligned: Address) -> Iterator[AlignedSample]:
    """The samples of an aligned tar.

    Raises:
        UserError: a local tar is not what align wrote.
        TransientError: a store answers with other members than align wrote, by the checksums in its record.
    """
    record = read_record(aligned)
    expected = iter(record.samples if record else ())
    try:
        for key, members in read_shard(aligned):
            sample = next(expected, {})
            sums = crcs(members)
            if sample.get("key") != key or any(sample.get(name, crc) != crc for name, crc in sums.items()):
                raise BrokenSample(f"{key} has other bytes")
            yield key, members
        for sample in expected:
            raise BrokenSample(f"it ends before {sample['key']}")
    except (BrokenSample, TarError) as error:
        problem = f"{aligned}: not what align wrote ({error}); delete it to have it aligned again"
        raise (UserError if is_local(aligned) else TransientError)(problem) from error
