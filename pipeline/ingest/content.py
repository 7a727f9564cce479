"""Hash the bytes of every source, in parallel."""

import hashlib
import io
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, pairwise
from tempfile import TemporaryFile
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.images import Refused, check_bytes
from common.progress import progress
from common.retry import Patience
from common.storage import Address, TransientError
from pipeline.ingest.listing import Source, Sources
from pipeline.source import MISSING, open_source

HASH_THREADS: Final = 8
HASH_WINDOW: Final = 1024
"""Sources that are queued for the threads at a time."""
HASH_PART: Final = 16
"""Sources of one task of a thread."""


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of a source: their SHA-256 and number, or (reason, detail) why there are none."""

    sha256: str | None
    size: int
    refused: tuple[str, str] | None = None


RECORD: Final = np.dtype([("sha256", "V32"), ("size", "<i8"), ("hashed", "?")])
"""A content in `Contents`; the hash is zero if ``hashed`` is not set."""


class Contents:
    """The contents of all sources in a temporary file, and what planning compares in memory, 9 bytes each.

    Attributes:
        keys: uint64, the first 8 bytes of the SHA-256; 0 where the source is refused.
        usable: bool, whether the source is not refused.
        refused: the reasons and details of the others by their numbers.
    """

    def __init__(self, count: int) -> None:
        self.keys, self.usable = np.zeros(count, np.uint64), np.zeros(count, bool)
        self.refused: dict[int, tuple[str, str]] = {}
        self._file = TemporaryFile()  # noqa: SIM115

    @classmethod
    def of(cls, contents: Sequence[Content]) -> "Contents":
        """These contents."""
        made = cls(len(contents))
        made.put(range(len(contents)), contents)
        return made

    def put(self, numbers: Sequence[int], contents: Sequence[Content]) -> None:
        """Set the contents of the sources with these numbers, which ascend."""
        digests = [bytes.fromhex(content.sha256 or "") for content in contents]
        sizes = (content.size for content in contents)
        rows = [(digest, size, bool(digest)) for digest, size in zip(digests, sizes, strict=True)]
        records = np.array(rows, RECORD)
        for start, stop in _runs(numbers):
            self._file.seek(numbers[start] * RECORD.itemsize)
            self._file.write(records[start:stop].tobytes())
        for number, digest, content in zip(numbers, digests, contents, strict=True):
            if content.refused:
                self.refused[number] = content.refused
            else:
                self.usable[number], self.keys[number] = True, int.from_bytes(digest[:8], "big")

    def records(self, start: int, stop: int) -> NDArray[Any]:
        """The contents from one number to another, of the type `RECORD`."""
        self._file.seek(start * RECORD.itemsize)
        return np.frombuffer(self._file.read((stop - start) * RECORD.itemsize), RECORD)

    def sha256(self, start: int, stop: int) -> list[str | None]:
        """Their hashes in hexadecimal; None where nothing was hashed."""
        records = self.records(start, stop)
        digits = records["sha256"].tobytes().hex()
        return [
            digits[64 * index : 64 * (index + 1)] if hashed else None
            for index, hashed in enumerate(records["hashed"].tolist())
        ]


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Where in ascending numbers each run without a gap starts and ends."""
    gaps = np.flatnonzero(np.diff(np.fromiter(numbers, np.int64)) != 1) + 1
    bounds = [0, *gaps.tolist(), len(numbers)]
    return pairwise(bounds) if len(numbers) else iter(())


Read = Callable[[Source], Content | TransientError]


def hash_sources(
    root: Address, sources: Sources, max_pixels: int, retry_minutes: float, read: Read | None = None
) -> Contents:
    """The content of every source, with bounded memory.

    A file with more than 8 bytes for each of `max_pixels` is refused unread. What the store
    does not hand out is asked for again after all others, for `retry_minutes` without any progress.

    Args:
        root: the folder that paths are relative to.
        sources: to hash.
        max_pixels: of an image.
        retry_minutes: of patience with the store.
        read: hashes a source, by default its bytes below `root`.

    Raises:
        UserError: the store still does not hand out a source.
    """
    bar = progress("ingest", len(sources), "files")
    read = read or (lambda source: _hash(root, source, max_pixels))
    contents = Contents(len(sources))
    patience = Patience(retry_minutes)
    waiting: Sequence[int] = range(len(sources))
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        while waiting:
            failed = list[tuple[int, TransientError]]()
            # In windows, because the pool queues a task for everything that it is given.
            for window in _windows(waiting):
                hashed = chain.from_iterable(
                    pool.map(lambda part: [read(source) for source in part], _parts(sources, window))
                )
                numbers, known = list[int](), list[Content]()
                for number, content in zip(window, hashed, strict=True):
                    if isinstance(content, Content):
                        numbers.append(number)
                        known.append(content)
                    else:
                        failed.append((number, content))
                contents.put(numbers, known)
                bar.update(len(known))
            if failed:
                patience = patience if len(failed) == len(waiting) else Patience(retry_minutes)
                _wait(patience, len(failed), failed[0][1])
            waiting = [number for number, _ in failed]
    bar.close()
    return contents


def _windows(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(numbers), HASH_WINDOW):
        yield numbers[start : start + HASH_WINDOW]


def _parts(sources: Sources, window: Sequence[int]) -> Iterator[list[Source]]:
    rows = slice(window.start, window.stop) if isinstance(window, range) else list(window)
    some = sources.some(rows)
    return (some[start : start + HASH_PART] for start in range(0, len(some), HASH_PART))


def _wait(patience: Patience, failed: int, cause: TransientError) -> None:
    pause = patience.pause()
    if pause is None:
        raise UserError(
            f"{failed:,} files cannot be read ({cause}); nothing was planned, so nothing is lost: "
            "run the same command again when the input answers"
        )
    print(f"ingest: {failed:,} files cannot be read ({cause}); again in {pause:.0f} s", file=sys.stderr)
    time.sleep(pause)


def _hash(root: Address, source: Source, max_pixels: int) -> Content | TransientError:
    if source.refused:
        return Content(None, 0, source.refused)
    size = 0
    try:
        with open_source(root, source.path) as stream:
            size = stream.seek(0, io.SEEK_END)
            check_bytes(size, max_pixels)
            stream.seek(0)
            digest = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
    except Refused as refused:
        labelled = source.attributes is not None and refused.detail == MISSING
        return Content(None, size, ("label-without-image" if labelled else refused.reason, refused.detail))
    except TransientError as error:
        return error
    return Content(digest, size, None if size else ("empty", "the file has no bytes"))
