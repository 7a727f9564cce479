"""Hash the bytes of every source, except where a record tells the hash already."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from common.errors import UserError
from common.files import remove, remove_partials
from common.images import BYTES_PER_PIXEL
from common.pipeline_config import Cluster
from common.progress import progress
from common.retry import Backoff, retried
from common.storage import Address, is_local, list_folder, read_bytes
from common.tables import Database, batches, insert_batches
from pipeline.ingest.hash_task import RECORDS, Hashed, Photo, Read, hash_photos
from pipeline.runner.prefetch import THREADS, read_ahead

# Sources of one task and its file of records, which an interrupted run loses at most of each task.
PART: Final = 4096
HERE: Final = 5 * PART  # Sources that are hashed in this process, in less time than a cluster takes to start
WAITING: Final = "FROM listed ANTI JOIN contents USING (number)"  # The sources that are not hashed yet
Stamps = Callable[[Sequence[str]], list[str | None]]  # The stamps of paths as they are now


@dataclass(frozen=True)
class Photos:
    """How photos are read."""

    stamps: Stamps  # what tells that a file has changed
    read: Read  # hashes one, perhaps in another process
    threads: int  # that each process reads with
    cluster: Cluster | None  # whose workers hash many; None: this process does


def hash_sources(
    database: Database,
    photos: Photos,
    folder: Address,
    max_pixels: int,
    retry_minutes: float,
    doubted: Collection[str] = (),
) -> None:
    """Make the table ``contents`` of all sources in ``listed``, see `pipeline.ingest.hash_task.CONTENTS`.

    What the store does not hand out is asked for again after all others, for `retry_minutes` without any
    progress. Files of more than `max_pixels` allow are not looked up in the records, which lie in `folder`;
    those of `doubted` sources are not believed.

    Raises:
        UserError: the store still does not hand out a source, or the workers die.
        OSError: the store of the records does not answer.
    """
    _find_unchanged(database, folder, photos.stamps, doubted, retry_minutes)
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
            problem = f"{left:,} files cannot be read ({cause})"
            advice = (
                "nothing was planned, so nothing is lost: run the same command again when the input answers"
            )
            backoff.wait(f"ingest: {problem}", UserError(f"{problem}; {advice}"))
        waiting = left
    bar.close()


def _find_unchanged(
    database: Database, folder: Address, stamps: Stamps, doubted: Collection[str], retry_minutes: float
) -> None:
    """Make the table ``unchanged``: number, SHA-256 and bytes of sources whose files have not changed.

    A number may come several times. Files of records in which a source is `doubted` are deleted.
    """
    database.execute(
        "CREATE OR REPLACE TABLE records (source VARCHAR, stamp VARCHAR, bytes BIGINT, sha256 BLOB);"
        "CREATE OR REPLACE TABLE unchanged (number BIGINT, sha256 VARCHAR, bytes BIGINT)"
    )
    remove_partials(folder)
    names = sorted(retried(lambda: list_folder(folder), retry_minutes, "ingest"))

    def read(name: str) -> bytes:
        return retried(partial(read_bytes, folder / name), retry_minutes, "ingest")

    for name, content in read_ahead(read, names, 2 if is_local(folder) else THREADS):
        try:
            part = pq.read_table(BytesIO(content.result())).select(RECORDS.names).cast(RECORDS)
        except (pa.ArrowException, KeyError):
            continue  # damaged, or of another version: what it says is hashed again
        if doubted and pc.any(pc.is_in(part["source"], pa.array(doubted, pa.string()))).as_py():
            retried(partial(remove, folder / name), retry_minutes, "ingest")
        else:
            insert_batches(database, "records", part.to_batches())
    recorded = """
        SELECT number, source, stamp, bytes, lower(hex(sha256)) AS sha256
        FROM listed JOIN records USING (source) WHERE reason IS NULL
    """
    for batch in batches(database.cursor(), recorded, rows=PART):
        current = pa.array(stamps(batch["source"].to_pylist()), pa.string())
        same = batch.filter(pc.fill_null(pc.equal(batch["stamp"], current), False))
        insert_batches(database, "unchanged", [same.select(["number", "sha256", "bytes"])])
    database.execute("DROP TABLE records")


def _count_waiting(database: Database) -> int:
    return int(database.execute(f"SELECT count(*) {WAITING}").fetchall()[0][0])


def _hashed(
    database: Database, photos: Photos, folder: Address, count: int, retry_minutes: float
) -> Iterator[Hashed]:
    waiting = f"SELECT number, source, labels IS NOT NULL {WAITING} ORDER BY number"
    task = partial(hash_photos, photos.read, photos.threads, folder, retry_minutes)
    parts = (
        list(map(Photo, numbers, paths, labelled, photos.stamps(paths)))
        for batch in batches(database, waiting, rows=PART)
        for numbers, paths, labelled in [[column.to_pylist() for column in batch.columns]]
    )
    if photos.cluster is None or count <= HERE:
        yield from map(task, parts)
        return
    # Dask and torch take seconds to import, which ingest needs for nothing else.
    from pipeline.runner.tasks import read_bounded

    for _, hashed in read_bounded(photos.cluster, task, parts, -(-count // PART)):
        yield hashed
