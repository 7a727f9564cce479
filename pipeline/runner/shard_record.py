"""The record that lies beside each tar: what it was made from, and what became of every row.

A shard is finished when its record exists and carries the fingerprint of the
work it would be made from now; the record is written after the tar.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from common.files import write_text
from common.storage import Address


@dataclass(frozen=True)
class ShardRecord:
    """What became of one planned shard.

    Attributes:
        fingerprint: hash of all that the tar's bytes depend on.
        samples: one mapping per sample in the tar, in its order.
        quarantined: one mapping (source, reason, detail) per input that was refused.
    """

    fingerprint: str
    samples: list[dict[str, Any]]
    quarantined: list[dict[str, str]]


def fingerprint(*parts: Any) -> str:
    """A hash of JSON-able values: equal values give the same 64 hex digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def record_path(tar: Address) -> Address:
    """Where the record of a tar lies."""
    return tar.with_suffix(".json")


def write_record(tar: Address, record: ShardRecord) -> None:
    """Write the record of a tar that is already in place."""
    write_text(record_path(tar), json.dumps(asdict(record), sort_keys=True) + "\n")


def read_record(tar: Address) -> ShardRecord | None:
    """The record of a finished tar, or None if there is none or it is unreadable."""
    try:
        record = ShardRecord(**json.loads(record_path(tar).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return record if tar.is_file() else None


def remove_unplanned(folder: Address, planned: set[Address]) -> None:
    """Delete tars, with their records, that an earlier plan left in `folder`."""
    for tar in folder.glob("*-[0-9][0-9][0-9][0-9][0-9][0-9].tar"):
        if tar not in planned:
            record_path(tar).unlink(missing_ok=True)
            tar.unlink()


@dataclass(frozen=True)
class StageRun:
    """What the last run of a stage that had shards to make took; for people, nothing depends on it.

    Attributes:
        seconds: wall clock, start of the cluster included.
        workers: at its start.
        made: shards.
        kept: shards that were up to date.
        images: rows of the shards that were made.
    """

    seconds: float
    workers: int
    made: int
    kept: int
    images: int


def write_stage_run(manifests: Address, stage: str, run: StageRun) -> None:
    """Put the run into ``stages.json`` beside the manifests, a mapping from stage to `StageRun`."""
    place = manifests / "stages.json"
    try:
        runs = dict(json.loads(place.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        runs = {}
    write_text(place, json.dumps(runs | {stage: asdict(run)}, indent=2, sort_keys=True) + "\n")
