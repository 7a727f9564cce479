"""Hash some sources and record their hashes: one task of the cluster, or of this process.

A task writes one Parquet file of records, with the columns `RECORDS`. A record counts as long as the stamp of
its file is the same, which is its size and its modification time or entity tag. Records only save reading:
all of them may be deleted.
"""

import hashlib
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from common.files import replacing
from common.images import check_bytes, is_image
from common.photo import Refused
from common.retry import retried
from common.storage import Address, TransientError, is_local
from pipeline.source import MEMBER, MISSING, open_source, read_source

# Sources of which a thread reads one after the other, because each hand-over to a thread takes time too.
SOME: Final = 8
# Bytes of a remote file that are read in one request, and held in memory by each thread.
WHOLE: Final = 8_000_000
RECORDS: Final = pa.schema(
    {"source": pa.string(), "stamp": pa.string(), "bytes": pa.int64(), "sha256": pa.binary(32)}
)
# Columns of the table ``contents``; the hash is in hexadecimal digits.
CONTENTS: Final = pa.schema(
    {"number": pa.int64(), "sha256": pa.string(), "bytes": pa.int64(), "reason": pa.string()}
    | {"detail": pa.string()}
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
    """The bytes of a source: the SHA-256 of an image and their number, or (reason, detail) why it is none."""

    sha256: str | None
    size: int
    refused: tuple[str, str] | None = None


Read = Callable[[Photo], Content | TransientError]
# Sources that were hashed or refused, with the columns `CONTENTS`, and why the store did not hand out one of
# the others; empty if there are none.
Hashed = tuple[pa.RecordBatch, str]


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
    rows, records, cause = [], [], ""
    for photo, content in results:
        if isinstance(content, TransientError):
            cause = cause or str(content)
            continue
        reason, detail = content.refused or (None, None)
        rows.append((photo.number, content.sha256, content.size, reason, detail))
        if content.sha256 and photo.stamp:
            records.append((photo.path, photo.stamp, content.size, bytes.fromhex(content.sha256)))
    if records:
        stamped = "\n".join(f"{path}\n{stamp}" for path, stamp, *_ in records)
        table = pa.Table.from_batches([_batch(records, RECORDS)])
        file = folder / f"{hashlib.sha256(stamped.encode()).hexdigest()[:16]}.parquet"
        retried(lambda: _write(table, file), retry_minutes, "ingest")
    return _batch(rows, CONTENTS), cause


def _write(table: pa.Table, file: Address) -> None:
    with replacing(file) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _batch(rows: list[tuple[Any, ...]], schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema)


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
    with (
        io.BytesIO(read_source(root, photo.path))
        if whole
        else open_source(root, photo.path, max_pixels) as stream
    ):
        size = stream.seek(0, io.SEEK_END)
        if not whole:
            check_bytes(size, max_pixels)
        if not is_image(stream):
            reason = ("not-an-image", "no image format was recognised")
            return Content(None, size, reason if size else ("empty", "the file has no bytes"))
        stream.seek(0)
        return Content(hashlib.file_digest(stream, "sha256").hexdigest(), size)  # type: ignore[arg-type]
