"""Hash the bytes of every source, except where a record tells the hash already."""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from common.errors import UserError
from common.images import BYTES_PER_PIXEL
from common.pipeline_config import Cluster
from common.progress import progress
from common.retry import Backoff
from common.storage import Address
from pipeline.ingest.content import RECORD, Contents, Numbers
from pipeline.ingest.hash_records import PART, HashRecords, Stamps
from pipeline.ingest.hash_task import Hashed, HashTask, Photo, Read, hash_photos
from pipeline.ingest.listing import PIECE, Sources

HERE: Final = 5 * PART
"""Sources that are hashed in this process, in less time than a cluster takes to start."""


@dataclass(frozen=True)
class Photos:
    """How photos are read.

    Attributes:
        stamps: what tells that a file has changed.
        read: hashes one, perhaps in another process.
        threads: that each process reads with.
        cluster: whose workers hash many; None: this process does.
    """

    stamps: Stamps
    read: Read
    threads: int
    cluster: Cluster | None


def hash_sources(
    sources: Sources, photos: Photos, folder: Address, max_pixels: int, retry_minutes: float
) -> Contents:
    """The content of every source, with bounded memory.

    What the store does not hand out is asked for again after all others, for `retry_minutes` without any
    progress.

    Args:
        sources: to hash.
        photos: how they are read.
        folder: of the records, to which those of new hashes are added.
        max_pixels: of an image; larger files are not looked up in the records.
        retry_minutes: of patience with the store.

    Raises:
        UserError: the store still does not hand out a source, or the workers die.
        OSError: the store of the records does not answer.
    """
    bar = progress("ingest", len(sources), "files")
    contents = Contents(len(sources))
    records = HashRecords(folder, retry_minutes)
    for numbers, known in records.matching(sources.table["source"], photos.stamps):
        fits = known["size"] <= BYTES_PER_PIXEL * max_pixels
        contents.put(numbers[fits], known[fits])
    _refuse(sources, contents)
    waiting = contents.unknown()
    bar.update(len(sources) - len(waiting))
    backoff = Backoff(retry_minutes)
    while len(waiting):
        unanswered, cause = list[Numbers](), ""
        for hashed in _hashed(sources, photos, folder, waiting, retry_minutes):
            contents.put(hashed.numbers, hashed.records, hashed.refused)
            bar.update(len(hashed.numbers))
            if len(hashed.unanswered):
                unanswered.append(hashed.unanswered)
                cause = hashed.cause
        left = np.sort(np.concatenate([np.empty(0, np.int32), *unanswered]))
        if len(left):
            backoff = backoff if len(left) == len(waiting) else Backoff(retry_minutes)
            _wait(backoff, len(left), cause)
        waiting = left
    bar.close()
    records.merge_small()
    return contents


def _refuse(sources: Sources, contents: Contents) -> None:
    """What the adapter refuses is not read."""
    for start in range(0, len(sources), PIECE):
        refused = sources.table["reason"].slice(start, PIECE).is_valid().to_numpy()
        numbers = np.flatnonzero(refused) + start
        reasons = [source.refused for source in sources.some(numbers.tolist())]
        refusals = {
            number: reason for number, reason in zip(numbers.tolist(), reasons, strict=True) if reason
        }
        contents.put(numbers, np.zeros(len(numbers), RECORD), refusals)


def _hashed(
    sources: Sources, photos: Photos, folder: Address, numbers: Numbers, retry_minutes: float
) -> Iterator[Hashed]:
    """The results of all tasks, in any order."""
    count = -(-len(numbers) // PART)
    tasks = (
        HashTask(
            some, _photos(sources, some, photos.stamps), photos.read, photos.threads, folder, retry_minutes
        )
        for some in (numbers[start : start + PART] for start in range(0, len(numbers), PART))
    )
    if photos.cluster is None or len(numbers) <= HERE:
        yield from map(hash_photos, tasks)
        return
    # Dask and torch take seconds to import, which ingest needs for nothing else.
    from pipeline.runner.cluster import read_bounded

    for _, hashed in read_bounded(photos.cluster, hash_photos, tasks, count):
        yield hashed


def _photos(sources: Sources, numbers: Numbers, stamps: Stamps) -> list[Photo]:
    rows = sources.table.select(["source", "annotated"]).take(numbers)
    paths, annotated = rows["source"].to_pylist(), rows["annotated"].to_pylist()
    return list(map(Photo, paths, annotated, stamps(paths)))


def _wait(backoff: Backoff, failed: int, cause: str) -> None:
    pause = backoff.pause()
    if pause is None:
        raise UserError(
            f"{failed:,} files cannot be read ({cause}); nothing was planned, so nothing is lost: "
            "run the same command again when the input answers"
        )
    print(f"ingest: {failed:,} files cannot be read ({cause}); again in {pause:.0f} s", file=sys.stderr)
    time.sleep(pause)
