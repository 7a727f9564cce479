"""The bytes of sources as planning needs them: SHA-256 and size, or why there are none."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from tempfile import TemporaryFile
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.integer[Any]]

RECORD: Final = np.dtype([("sha256", "V32"), ("size", "<i8"), ("hashed", "?")])
"""A content in an array; the hash is zero if ``hashed`` is not set."""

EMPTY: Final = ("empty", "the file has no bytes")


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of a source: their SHA-256 and number, or (reason, detail) why there are none."""

    sha256: str | None
    size: int
    refused: tuple[str, str] | None = None


def to_records(contents: Sequence[Content]) -> NDArray[Any]:
    """The hashes and sizes in an array of the type `RECORD`."""
    digests = (bytes.fromhex(content.sha256 or "") for content in contents)
    rows = [(digest, content.size, bool(digest)) for digest, content in zip(digests, contents, strict=True)]
    return np.array(rows, RECORD)


class Contents:
    """The contents of all sources in a temporary file, and what planning compares in memory, 9 bytes each.

    Attributes:
        keys: uint64, the first 8 bytes of the SHA-256; 0 where the source is refused.
        usable: bool, whether the source is known and not refused.
        refused: the reasons and details of the others by their numbers.
    """

    def __init__(self, count: int) -> None:
        self.keys, self.usable = np.zeros(count, np.uint64), np.zeros(count, bool)
        self.refused: dict[int, tuple[str, str]] = {}
        self._file = TemporaryFile()  # noqa: SIM115
        self._file.truncate(count * RECORD.itemsize)

    @classmethod
    def of(cls, contents: Sequence[Content]) -> "Contents":
        """These contents."""
        made = cls(len(contents))
        refused = {number: content.refused for number, content in enumerate(contents) if content.refused}
        made.put(np.arange(len(contents)), to_records(contents), refused)
        return made

    def put(
        self, numbers: Numbers, records: NDArray[Any], refused: Mapping[int, tuple[str, str]] | None = None
    ) -> None:
        """Set the contents of the sources with these numbers, which ascend.

        Args:
            numbers: of the sources.
            records: their contents, of the type `RECORD`.
            refused: reasons and details by number; a file without bytes is refused in any case.
        """
        for start, stop in _runs(numbers):
            self._file.seek(int(numbers[start]) * RECORD.itemsize)
            self._file.write(records[start:stop].tobytes())
        empty = numbers[records["hashed"] & (records["size"] == 0)].tolist()
        refusals = {**dict.fromkeys(empty, EMPTY), **(refused or {})}
        self.refused |= refusals
        digests = np.frombuffer(records["sha256"].tobytes(), np.uint8).reshape(-1, 32)
        self.keys[numbers] = np.ascontiguousarray(digests[:, :8]).view(">u8")[:, 0]
        self.usable[numbers] = True
        self.usable[list(refusals)] = False
        self.keys[list(refusals)] = 0

    def unknown(self) -> Numbers:
        """The numbers of the sources whose contents are not set."""
        known = self.usable.copy()
        known[list(self.refused)] = True
        return np.flatnonzero(~known).astype(np.int32)

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


def _runs(numbers: Numbers) -> Iterator[tuple[int, int]]:
    """Where in ascending numbers each run without a gap starts and ends."""
    gaps = np.flatnonzero(np.diff(numbers) != 1) + 1
    return pairwise([0, *gaps.tolist(), len(numbers)]) if len(numbers) else iter(())
