"""What the runner and a stage agree on: a shard to make, how, its record beside its tar, and what is refused.

The record says what the tar was made from, see `common.freshness`, and what became of every row. It is
written after the tar, so a shard is finished when it has a record.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar
from zlib import crc32

from common import freshness
from common.errors import UserError
from common.storage import Address, is_file, read_bytes

# Reason of a source with other bytes than were hashed; the next run reads it again: a store may be wrong.
CHANGED: Final = "changed"
Advance = Callable[[int], None]  # Reports from within a task that so many more of its rows are done


@dataclass(frozen=True)
class ShardTask:
    """One shard to make."""

    tar: Address  # the tar to make; its record lies beside it
    inputs: str  # hash of all inputs and settings that the tar's bytes depend on
    code: str  # hash of the code that they depend on
    size: int  # rows, for the progress display


Task = TypeVar("Task", bound=ShardTask)


@dataclass(frozen=True)
class ShardStage(Generic[Task]):
    """What a stage does to one shard; all of it is sent to the workers."""

    name: str  # such as ``parse``
    unit: str  # plural name of a row
    load: Callable[[], object]  # loads the model, called once per worker process
    # writes the tar and its record; the sources in the set are excluded and quarantined
    make: Callable[[Task, frozenset[str], Advance], None]
    # does to each source by itself what `make` does to it, except for those in the set; yields a source's
    # name before it opens the source
    probe: Callable[[Task, frozenset[str]], Iterator[str]]


@dataclass(frozen=True)
class ShardRecord:
    """What became of one planned shard."""

    made_from: dict[str, str]  # ``inputs`` and ``code`` of its task
    samples: list[dict[str, Any]]  # one mapping per sample in the tar, in its order
    quarantined: list[dict[str, str]]  # one mapping (source, reason, detail) per input that was refused
    # the class of hardware and the precision that a network computed in; the bytes depend on them, but a set
    # may be continued on another machine. Empty if no network was used
    numerics: str = ""


class Refusals:
    """Refused sources by reason, and the greatest share of all `sources` that they may have."""

    def __init__(self, sources: int, max_fraction: float) -> None:
        self._sources, self._max_fraction = sources, max_fraction
        self._reasons: Counter[str] = Counter()

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Count quarantine rows; a `UserError` if there are more than allowed by now, and so at the end."""
        row: Mapping[str, Any] = {}
        for row in rows:
            self._reasons[row["reason"]] += 1
        refused = self._reasons.total()
        if refused > self._max_fraction * self._sources:
            listed = ", ".join(f"{count:,} {reason}" for reason, count in self._reasons.most_common())
            raise UserError(
                f"stopped: {refused:,} of {self._sources:,} sources are refused so far ({listed}), more than "
                f"quarantine.max_fraction={self._max_fraction:g} allows; the last is {row.get('source')}: "
                f"{row.get('detail')}. Finished shards stay; fix the input, or allow more with "
                "--set quarantine.max_fraction=..."
            )


def worker_died(source: str) -> dict[str, str]:
    """The quarantine row of a source that ends every worker process that opens it."""
    detail = "the worker process died each time it opened this file"
    return {"source": source, "reason": "worker-died", "detail": detail}


def crcs(members: Mapping[str, bytes]) -> dict[str, int]:
    """The checksums of a sample's members, by the names of their columns."""
    return {f"{name}.crc32": crc32(data) for name, data in members.items()}


def record_path(tar: Address) -> Address:
    """The path of a tar's record."""
    return tar.with_suffix(".json")


def write_record(
    task: ShardTask, samples: list[dict[str, Any]], quarantined: list[dict[str, str]], numerics: str = ""
) -> None:
    """Write the record of a tar that is complete; for the arguments see `ShardRecord`."""
    content = {"samples": samples, "quarantined": quarantined, "numerics": numerics}
    freshness.write_record(record_path(task.tar), content, {"inputs": task.inputs, "code": task.code})


def read_record(tar: Address) -> ShardRecord | None:
    """The record of a finished tar, or None if there is none or it is damaged.

    Raises:
        OSError: the store does not answer.
    """
    try:
        record = to_record(read_bytes(record_path(tar)))
    except FileNotFoundError:
        return None
    return record if is_file(tar) else None


def to_record(content: bytes) -> ShardRecord | None:
    """The record in a file with this content, or None if it is damaged."""
    try:
        return ShardRecord(**json.loads(content))
    except (ValueError, TypeError):
        return None
