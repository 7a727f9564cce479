"""Hash some sources and record their hashes: one task of the cluster, or of this process."""

import hashlib
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from common.images import Refused, check_bytes
from common.retry import retried
from common.storage import Address, TransientError, is_local
from pipeline.ingest.content import Content, Numbers, to_records
from pipeline.ingest.hash_records import COLUMNS, write_part
from pipeline.source import MEMBER, MISSING, open_source, read_source

LOCAL_THREADS: Final = 8
REMOTE_THREADS: Final = 32
"""Sources that a task reads at a time from a store: at 60 ms each, 533 a second."""

SOME: Final = 8
"""Sources of which a thread reads one after the other, because each hand-over to a thread takes time too."""

WHOLE: Final = 8_000_000
"""Bytes of a remote file that are read in one request, and held in memory by each thread."""


@dataclass(frozen=True, slots=True)
class Photo:
    """A source to hash.

    Attributes:
        path: as in `pipeline.ingest.listing.Source`.
        labelled: whether it has labels.
        stamp: as `common.input_files.Tree.stamps` tells, before the source is read.
    """

    path: str
    labelled: bool
    stamp: str | None

    @property
    def size(self) -> int | None:
        """The bytes of a file according to its stamp."""
        return int(self.stamp.split(" ")[0]) if self.stamp and MEMBER not in self.path else None


Read = Callable[[Photo], Content | TransientError]


@dataclass(frozen=True)
class HashTask:
    """Sources to hash.

    Attributes:
        numbers: of the sources in the listing, ascending.
        photos: the sources.
        read: hashes one.
        threads: sources that are read at a time.
        folder: of the records.
        retry_minutes: of patience with the store of the records.
    """

    numbers: Numbers
    photos: list[Photo]
    read: Read
    threads: int
    folder: Address
    retry_minutes: float


@dataclass(frozen=True)
class Hashed:
    """What became of the sources of a task.

    Attributes:
        numbers: of the sources that were hashed or refused, ascending.
        records: their contents, of the type `pipeline.ingest.content.RECORD`.
        refused: reasons and details by number.
        unanswered: the numbers of the others, which the store did not hand out.
        cause: why not the first of these.
    """

    numbers: Numbers
    records: NDArray[Any]
    refused: dict[int, tuple[str, str]]
    unanswered: Numbers
    cause: str


def hash_photos(task: HashTask) -> Hashed:
    """Hash the sources of a task and write a part of the records, unless nothing can be recorded.

    Raises:
        OSError: the records cannot be written.
    """
    with ThreadPoolExecutor(task.threads) as pool:
        some = (task.photos[start : start + SOME] for start in range(0, len(task.photos), SOME))
        parts = pool.map(lambda photos: [task.read(photo) for photo in photos], some)
        results = list(chain.from_iterable(parts))
    known = np.array([isinstance(result, Content) for result in results], bool)
    contents = [result for result in results if isinstance(result, Content)]
    numbers, records = task.numbers[known], to_records(contents)
    photos = [photo for photo, its in zip(task.photos, known.tolist(), strict=True) if its]
    part = _part(photos, records)
    if part.num_rows:
        retried(lambda: write_part(task.folder, part), task.retry_minutes, "ingest")
    return Hashed(
        numbers=numbers,
        records=records,
        refused={
            number: content.refused
            for number, content in zip(numbers.tolist(), contents, strict=True)
            if content.refused
        },
        unanswered=task.numbers[~known],
        cause=next((str(result) for result in results if isinstance(result, TransientError)), ""),
    )


def _part(photos: list[Photo], records: NDArray[Any]) -> pa.Table:
    """The records of what was hashed and has a stamp."""
    columns = [
        pa.array([photo.path for photo in photos], pa.string()),
        pa.array([photo.stamp for photo in photos], pa.string()),
        pa.array(records["size"]),
        pa.array([digest.tobytes() for digest in records["sha256"]], pa.binary(32)),
    ]
    table = pa.Table.from_arrays(columns, schema=COLUMNS)
    return table.filter(pa.array(records["hashed"])).drop_null()


def read_content(root: Address, max_pixels: int, photo: Photo) -> Content | TransientError:
    """The content of a source below `root`; an error if the store does not hand it out.

    A file with more than 8 bytes for each of `max_pixels` is refused unread.
    """
    size = photo.size or 0
    try:
        check_bytes(size, max_pixels)
        if is_local(root) or not 0 < size <= WHOLE:
            with open_source(root, photo.path) as stream:
                size = stream.seek(0, io.SEEK_END)
                check_bytes(size, max_pixels)
                stream.seek(0)
                digest = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
        else:
            data = read_source(root, photo.path)
            size, digest = len(data), hashlib.sha256(data).hexdigest()
    except Refused as refused:
        labelled = photo.labelled and refused.detail == MISSING
        return Content(None, size, ("label-without-image" if labelled else refused.reason, refused.detail))
    except TransientError as error:
        return error
    return Content(digest, size)
