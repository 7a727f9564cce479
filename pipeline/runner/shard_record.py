"""The record that lies beside each tar: what it was made from, and what became of every row.

A shard is finished when its record exists and carries the fingerprint and the code hash of the
work that it would be made from now; the record is written after the tar.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from common.errors import UserError
from common.files import write_text
from common.storage import Address, is_file, read_bytes

WORKER_DIED: Final = "worker-died"

_SHARD: Final = re.compile(r"-\d{6,}\.tar$")


@dataclass(frozen=True)
class ShardRecord:
    """What became of one planned shard.

    Attributes:
        fingerprint: hash of all inputs and settings that the tar's bytes depend on.
        samples: one mapping per sample in the tar, in its order.
        quarantined: one mapping (source, reason, detail) per input that was refused.
        code: hash of the code that made the tar; empty in records of versions that kept none.
        numerics: the class of hardware and the numbers that a network computed in; the bytes depend on them,
            but a set may be continued on another machine. Empty if no network was used.
    """

    fingerprint: str
    samples: list[dict[str, Any]]
    quarantined: list[dict[str, str]]
    code: str = ""
    numerics: str = ""


def fingerprint(*values: Any) -> str:
    """A hash of JSON-able values: equal values give the same 64 hex digits."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def worker_died(source: str) -> dict[str, str]:
    """The quarantine row of a source that ends every worker process that opens it."""
    detail = "the worker process died each time it opened this file"
    return {"source": source, "reason": WORKER_DIED, "detail": detail}


def record_path(tar: Address) -> Address:
    """The path of a tar's record."""
    return tar.with_suffix(".json")


def write_record(tar: Address, record: ShardRecord) -> None:
    """Write the record of a tar that is complete."""
    write_text(record_path(tar), json.dumps(vars(record), sort_keys=True) + "\n")


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


def remove_unplanned(folder: Address, tars: Iterable[str], planned: set[str], prune: bool) -> None:
    """Delete tars, with their records, that an earlier plan left in `folder`, if `prune` allows it.

    Args:
        folder: of the tars.
        tars: the names of all of them.
        planned: the names of those to keep.
        prune: whether others may be deleted.

    Raises:
        UserError: it does not, and there are some.
    """
    unplanned = [name for name in tars if _SHARD.search(name) and name not in planned]
    if unplanned and not prune:
        raise UserError(
            f"{folder} holds {len(unplanned):,} shards that are not in the plan, such as {min(unplanned)}; "
            "--prune deletes them, another --output keeps them"
        )
    for name in unplanned:
        record_path(folder / name).unlink(missing_ok=True)
        (folder / name).unlink()
