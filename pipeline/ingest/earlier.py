"""The plan that lies in the output already: which shard each photo is in, and what a new plan would lose."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from common import manifest
from common.errors import UserError
from common.layout import SPLITS, Layout, shard_name, shard_number

Numbers = NDArray[np.integer[Any]]


def code_of(split: int, number: Any) -> Any:
    """The shards with these numbers as integers; `split` is a position in `SPLITS`."""
    return number * len(SPLITS) + split


def name_of(dataset: str, code: int) -> str | None:
    """The name of the shard that a code means; None for a negative one."""
    return shard_name(dataset, SPLITS[code % len(SPLITS)], code // len(SPLITS)) if code >= 0 else None


@dataclass(frozen=True)
class PlannedBefore:
    """The shards of an earlier plan, 12 bytes a photo.

    Attributes:
        keys: uint64, sorted.
        codes: int32, the shard of each as `code_of` makes it.
    """

    keys: NDArray[np.uint64]
    codes: Numbers

    def shards_of(self, keys: NDArray[np.uint64], usable: NDArray[np.bool_]) -> NDArray[np.int32]:
        """The shard of each usable photo that was planned, -1 for others."""
        shards = np.full(len(keys), -1, np.int32)
        if len(self.keys):
            position = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1).astype(np.int32)
            known = usable & (self.keys[position] == keys)
            shards[known] = self.codes[position[known]]
        return shards

    def last_numbers(self) -> list[int]:
        """The greatest number of a shard of each split, -1 without any."""
        codes = np.unique(self.codes)
        numbers = (codes[codes % len(SPLITS) == split] // len(SPLITS) for split in range(len(SPLITS)))
        return [int(max(its, default=-1)) for its in numbers]


def planned_before(layout: Layout) -> PlannedBefore:
    """The shards of the plan in the output."""
    keys, codes = [np.empty(0, np.uint64)], [np.empty(0, np.int32)]
    names = dict[str, int]()
    for batch in manifest.batches(layout.source, ["key", "shard"]):
        batch = batch.filter(pc.is_valid(batch["key"]))
        shard = batch["shard"].dictionary_encode()
        for name in shard.dictionary.to_pylist():
            split = name.rpartition("/")[2].rpartition("-")[0]
            names.setdefault(name, code_of(SPLITS.index(split), shard_number(name)))
        numbers = np.array([names[name] for name in shard.dictionary.to_pylist()], np.int32)
        keys.append(_integers(batch["key"].to_pylist()))
        codes.append(numbers[shard.indices.to_numpy()])
    joined = np.concatenate(keys)
    order = np.argsort(joined)
    return PlannedBefore(joined[order], np.concatenate(codes)[order])


def refuse_losses(
    layout: Layout, dataset: str, root: str, keys: NDArray[np.uint64], paths: Iterator[str]
) -> None:
    """Refuse a plan without photos of which there are finished shards.

    Args:
        layout: where the earlier plan and its shards lie.
        dataset: its name.
        root: the folder of the new plan's paths. Those of another folder that has the same name as the
            earlier one are other photos.
        keys: of all photos of the new plan, in any order.
        paths: of all of them.

    Raises:
        UserError: there are such photos; says how many.
    """
    if not any(any((folder / dataset).glob("*.tar")) for folder in (layout.shards, layout.aligned)):
        return
    keys, photos = np.sort(keys), 0
    lost = dict[str, None]()
    for batch in manifest.batches(layout.source, ["key", "source"]):
        batch = batch.filter(pc.is_valid(batch["key"]))
        photos += batch.num_rows
        position = np.searchsorted(keys, own := _integers(batch["key"].to_pylist()))
        gone = np.r_[keys, np.uint64(0)][position] != own if len(keys) else np.ones(len(own), bool)
        gone |= position == len(keys)
        lost |= dict.fromkeys(batch["source"].filter(gone).to_pylist())
    earlier = manifest.read(layout.source, []).metadata["root"]
    for path in paths if lost and earlier == root else ():
        lost.pop(path, None)
    if lost:
        raise UserError(
            f"{len(lost):,} of {photos:,} photos of the finished shards in {layout.shards}, made from "
            f"{earlier}, are not in the input {root}, such as {next(iter(lost))}; --prune deletes their "
            "faces, another --output keeps them"
        )


def _integers(keys: list[str]) -> NDArray[np.uint64]:
    """Keys of 16 hex digits as integers."""
    return np.frombuffer(bytes.fromhex("".join(keys)), ">u8").astype(np.uint64)
