"""Hash the bytes of every source, except where a record tells the hash already."""

import sys
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

from common.errors import UserError
from common.images import BYTES_PER_PIXEL
from common.pipeline_config import Cluster
from common.progress import progress
from common.retry import Backoff
from common.storage import Address
from common.tables import Database, batches, insert_batches
from pipeline.ingest.hash_records import PART, Stamps, find_unchanged
from pipeline.ingest.hash_task import Hashed, HashTask, Photo, Read, hash_photos

HERE: Final = 5 * PART
"""Sources that are hashed in this process, in less time than a cluster takes to start."""

WAITING: Final = "FROM listed ANTI JOIN contents USING (number)"
"""The sources that are not hashed yet."""


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
    database: Database,
    photos: Photos,
    folder: Address,
    max_pixels: int,
    retry_minutes: float,
    doubted: Collection[str] = (),
) -> None:
    """Make the table ``contents`` of all sources, with the columns `pipeline.ingest.hash_task.CONTENTS`.

    What the store does not hand out is asked for again after all others, for `retry_minutes` without any
    progress.

    Args:
        database: has the table ``listed``.
        photos: how they are read.
        folder: of the records, to which those of new hashes are added.
        max_pixels: of an image; larger files are not looked up in the records.
        retry_minutes: of patience with the store.
        doubted: sources whose records are not believed.

    Raises:
        UserError: the store still does not hand out a source, or the workers die.
        OSError: the store of the records does not answer.
    """
    find_unchanged(database, folder, photos.stamps, doubted, retry_minutes)
    # What the adapter refuses is not read.
    database.execute(
        """
        CREATE OR REPLACE TABLE contents AS
        SELECT number, CAST(NULL AS VARCHAR) AS sha256, CAST(0 AS BIGINT) AS bytes, reason, detail
        FROM listed WHERE reason IS NOT NULL
        UNION ALL
        SELECT number, any_value(sha256), any_value(bytes), NULL, NULL
        FROM listed JOIN unchanged USING (number)
        WHERE reason IS NULL AND bytes <= $most GROUP BY number
        """,
        {"most": BYTES_PER_PIXEL * max_pixels},
    )
    [(count,)] = database.execute("SELECT count(*) FROM listed").fetchall()
    bar = progress("ingest", count, "files")
    backoff, waiting = Backoff(retry_minutes), _count_waiting(database)
    bar.update(count - waiting)
    while waiting:
        cause = ""
        for contents, failure in _hashed(database.cursor(), photos, folder, waiting, retry_minutes):
            insert_batches(database, "contents", [contents])
            bar.update(contents.num_rows)
            cause = failure or cause
        left = _count_waiting(database)
        if left:
            backoff = backoff if left == waiting else Backoff(retry_minutes)
            _wait(backoff, left, cause)
        waiting = left
    bar.close()


def _count_waiting(database: Database) -> int:
    return int(database.execute(f"SELECT count(*) {WAITING}").fetchall()[0][0])


def _hashed(
    database: Database, photos: Photos, folder: Address, count: int, retry_minutes: float
) -> Iterator[Hashed]:
    """The results of all tasks, in any order."""
    waiting = f"SELECT number, source, labels IS NOT NULL {WAITING} ORDER BY number"
    tasks = (
        HashTask(
            list(map(Photo, numbers, paths, labelled, photos.stamps(paths))),
            photos.read,
            photos.threads,
            folder,
            retry_minutes,
        )
        for batch in batches(database, waiting, rows=PART)
        for numbers, paths, labelled in [[column.to_pylist() for column in batch.columns]]
    )
    if photos.cluster is None or count <= HERE:
        yield from map(hash_photos, tasks)
        return
    # Dask and torch take seconds to import, which ingest needs for nothing else.
    from pipeline.runner.tasks import read_bounded

    for _, hashed in read_bounded(photos.cluster, hash_photos, tasks, -(-count // PART)):
        yield hashed


def _wait(backoff: Backoff, failed: int, cause: str) -> None:
    pause = backoff.pause()
    if pause is None:
        raise UserError(
            f"{failed:,} files cannot be read ({cause}); nothing was planned, so nothing is lost: "
            "run the same command again when the input answers"
        )
    print(f"ingest: {failed:,} files cannot be read ({cause}); again in {pause:.0f} s", file=sys.stderr)
    time.sleep(pause)
