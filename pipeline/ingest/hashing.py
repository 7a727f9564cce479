"""Hash the bytes of every source, except where a record tells the hash already.

Each task, of the cluster or of this process, hashes some sources and writes one Parquet file of records, with
the columns `RECORDS`. A record counts as long as the stamp of its file is the same, which is its size and its
modification time or entity tag. Records only save reading: all of them may be deleted.
"""

import hashlib
import io
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from common.errors import UserError
from common.files import remove, remove_partials
from common.images import BYTES_PER_PIXEL, check_bytes, is_image
from common.photo import Refused
from common.pipeline_config import Cluster
from common.progress import progress
from common.retry import Backoff, retried
from common.storage import Address, TransientError, is_local, list_folder, read_bytes
from common.tables import Database, batches, create_table, insert_batches, write_batches
from pipeline.runner.prefetch import THREADS, read_ahead
from pipeline.source import MEMBER, MISSING, open_source, read_source

# Sources of one task and its file of records, which an interrupted run loses at most of each task.
PART: Final = 4096
HERE: Final = 5 * PART  # Sources that are hashed in this process, in less time than a cluster takes to start
WAITING: Final = "FROM listed ANTI JOIN contents USING (number)"  # The sources that are not hashed yet
Stamps = Callable[[Sequence[str]], list[str | None]]  # The stamps of paths as they are now
# Sources of which a thread reads one after the other, because each hand-over to a thread takes time too.
SOME: Final = 8
# Bytes of a remote file that are read in one request, and held in memory by each thread.
WHOLE: Final = 8_000_000
RECORDS: Final = pa.schema(
    {"source": pa.string(), "stamp": pa.string(), "bytes": pa.int64(), "sha256": pa.binary(32)}
)
# Columns of the table ``contents``; the hash is in hexadecimal digits.
CONTENTS: Final = pa.schema(
    {
        **dict.fromkeys(("number", "bytes"), pa.int64()),
        **dict.fromkeys(("sha256", "reason", "detail"), pa.string()),
    }
)


@dataclass(frozen=True, slots=True)
class Photo:
    """A source to hash."""

    number: int  # of the source in the listing
    path: str  # as in `pipeline.ingest.listing.Source`
    labelled: bool  # whether it has labels
    stamp: str | None  # as `common.input_files.FileTree.stamps` tells, before the source is read

    @property
    def size(self) -> int | None:
        """The bytes of a file according to its stamp."""
        return int(self.stamp.split(" ")[0]) if self.stamp and MEMBER not in self.path else None


@dataclass(frozen=True, slots=True)
class Content:
    """The SHA-256 of an image and the number of its bytes, or (reason, detail) why a source is none."""

    sha256: str | None
    size: int
    refused: tuple[str, str] | None = None


Read = Callable[[Photo], Content | TransientError]
# Sources that were hashed or refused, with the columns `CONTENTS`, and why the store did not hand out one of
# the others; empty if there are none.
Hashed = tuple[pa.RecordBatch, str]


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
    """Make the table ``contents`` of all sources in ``listed``, with the columns `CONTENTS`.

    What the store does not hand out is asked for again after all others, for `retry_minutes` without any
    progress. Files of more than `max_pixels` allow are not looked up in the records, which lie in `folder`;
    those of `doubted` sources are not believed.

    Raises:
        UserError: the store still does not hand out a source, or the workers die.
        OSError: the store of the records does not answer.
    """
    _find_unchanged(database, folder, photos.stamps, doubted, retry_minutes)
    create_table(database, "contents", CONTENTS)
    # What the adapter refuses is not read; a file may have several records.
    database.execute(
        """
        INSERT INTO contents BY NAME
        SELECT number, 0 AS bytes, reason, detail FROM listed WHERE reason IS NOT NULL
        UNION ALL BY NAME
        SELECT number, any_value(sha256) AS sha256, any_value(bytes) AS bytes
        FROM unchanged WHERE bytes <= $most GROUP BY number
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
    """Make the table ``unchanged`` of sources whose files have not; deletes records of `doubted` ones."""
    create_table(database, "records", RECORDS)
    create_table(database, "unchanged", CONTENTS)
    remove_partials(folder)
    names = sorted(retried(lambda: list_folder(folder), retry_minutes, "ingest"))

    def read(name: str) -> bytes:
        return retried(partial(read_bytes, folder / name), retry_minutes, "ingest")

    for name, content in read_ahead(read, names, 2 if is_local(folder) else THREADS):
        try:
            part = pq.read_table(io.BytesIO(content.result())).select(RECORDS.names).cast(RECORDS)
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


def hash_photos(
    read: Read, threads: int, folder: Address, retry_minutes: float, photos: list[Photo]
) -> Hashed:
    """Hash sources, and record in a file of `folder` those that were hashed and have a stamp.

    So many `threads` read; the store of the records is tried again for `retry_minutes`.

    Raises:
        OSError: the records cannot be written.
    """
    with ThreadPoolExecutor(threads) as pool:
        some = (photos[start : start + SOME] for start in range(0, len(photos), SOME))
        parts = pool.map(lambda each: [read(photo) for photo in each], some)
        results = list(zip(photos, chain.from_iterable(parts), strict=True))
    rows, records, cause = list[dict[str, Any]](), list[dict[str, Any]](), ""
    for photo, content in results:
        if isinstance(content, TransientError):
            cause = cause or str(content)
            continue
        reason, detail = content.refused or (None, None)
        of_both = {"bytes": content.size, "sha256": content.sha256}
        rows.append({"number": photo.number, **of_both, "reason": reason, "detail": detail})
        if content.sha256 and photo.stamp:
            digest = bytes.fromhex(content.sha256)
            records.append({"source": photo.path, "stamp": photo.stamp, **of_both, "sha256": digest})
    if records:
        stamped = "\n".join(f"{record['source']}\n{record['stamp']}" for record in records)
        file = folder / f"{hashlib.sha256(stamped.encode()).hexdigest()[:16]}.parquet"
        batch = pa.RecordBatch.from_pylist(records, RECORDS)
        retried(lambda: write_batches(file, [batch], RECORDS, {}), retry_minutes, "ingest")
    return pa.RecordBatch.from_pylist(rows, CONTENTS), cause


def read_content(root: Address, max_pixels: int, photo: Photo) -> Content | TransientError:
    """The content of a source below `root`; an error if the store does not hand it out.

    A file with more than 8 bytes for each of `max_pixels` is refused unread. A store may answer with a part
    of a file, or with a page of a proxy: what is no image, or not as long as listed, is asked for once more,
    and is believed if it is the same and as long as listed.
    """
    size = photo.size or 0
    try:
        check_bytes(size, max_pixels)
        content = _read(root, max_pixels, photo)
        if not is_local(root) and (content.refused or photo.size not in (None, content.size)):
            again = _read(root, max_pixels, photo)
            if photo.size not in (None, again.size) or (again.refused and again != content):
                what = f"{again.size:,} bytes, not the photo of {size:,}"
                return TransientError(f"{root}/{photo.path}: the store answers with {what}")
            return again
    except Refused as refused:
        labelled = photo.labelled and refused.detail == MISSING
        return Content(None, size, ("label-without-image" if labelled else refused.reason, refused.detail))
    except TransientError as error:
        return error
    return content


def _read(root: Address, max_pixels: int, photo: Photo) -> Content:
    whole = not is_local(root) and 0 < (photo.size or 0) <= WHOLE
    path = photo.path
    with io.BytesIO(read_source(root, path)) if whole else open_source(root, path, max_pixels) as stream:
        size = stream.seek(0, io.SEEK_END)
        if not whole:
            check_bytes(size, max_pixels)
        if not is_image(stream):
            reason = ("not-an-image", "no image format was recognised")
            return Content(None, size, reason if size else ("empty", "the file has no bytes"))
        stream.seek(0)
        return Content(hashlib.file_digest(stream, "sha256").hexdigest(), size)  # type: ignore[arg-type]
