"""Nested subsets of the labelled train faces, as lists that can be cited and used again.

For one seed, the subset of 1 % is contained in that of 2 %. A list is a text file: lines that start
with ``#`` give its origin, every other line is the key of a sample, in sorted order.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common import manifest
from common.errors import UserError
from common.files import write_text
from common.layout import Layout
from common.storage import Address
from training.data.samples import Samples, manifest_hash, read_samples


def labelled_subset(samples: Samples, share: float, seed: int) -> NDArray[np.int64]:
    """Positions of the first `share` of the samples, ordered by a hash of the seed and the key.

    The order does not depend on how the samples are distributed over shards. At least one is taken.
    """
    ranks = [hashlib.sha256(f"{seed}:{key}".encode()).digest() for key in samples.keys]
    order = np.array(sorted(range(len(samples)), key=ranks.__getitem__), np.int64)
    return np.sort(order[: max(1, round(share * len(samples)))])


def write_subsets(layout: Layout, shares: Iterable[float], seed: int, output: Path) -> list[Path]:
    """Write one list per share, such as ``seed0-1%.txt``; the same shards give the same bytes.

    Raises:
        UserError: there are no finished shards, or no labelled train face in them.
    """
    samples = read_samples(layout, ("train",)).labelled()
    if not len(samples):
        raise UserError(f"{layout.shards} has no labelled train face to draw from")
    name = manifest.read(layout.samples, ["key"]).metadata["dataset"]
    written = []
    for share in shares:
        keys = sorted(samples.keys[position] for position in labelled_subset(samples, share, seed))
        head = [
            f"# data set: {name}",
            f"# shards.parquet: sha256 {manifest_hash(layout)}",
            f"# seed: {seed}",
            f"# count: {len(keys)} of {len(samples)} labelled train faces ({share * 100:g} %)",
        ]
        written.append(output / f"seed{seed}-{share * 100:g}%.txt")
        write_text(written[-1], "\n".join([*head, *keys]) + "\n")
    return written


def read_subset(file: Address, samples: Samples) -> NDArray[np.int64]:
    """Positions in `samples` of the keys of a list, sorted.

    Raises:
        UserError: the file cannot be read, lists no key, or lists a key twice or one that is not in
            `samples`; the message names the line.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{file}: this is no list of keys ({error}); write one with training.run --write-subsets"
        ) from error
    keys = {number: line.strip() for number, line in enumerate(lines, 1)}
    keys = {number: key for number, key in keys.items() if key and not key.startswith("#")}
    if not keys:
        raise UserError(f"{file} lists no key; write a new one with python -m training.run --write-subsets")
    position = {key: index for index, key in enumerate(samples.keys)}
    if unknown := [number for number, key in keys.items() if key not in position]:
        raise UserError(
            f"{file}, line {unknown[0]}: {keys[unknown[0]]} is no labelled train face of these shards "
            f"({len(unknown):,} of {len(keys):,} keys are not); the list was written for other shards"
        )
    seen = set[str]()
    for number, key in keys.items():
        if key in seen:
            raise UserError(f"{file}, line {number}: {key} is listed twice; delete one of the two lines")
        seen.add(key)
    return np.sort(np.array([position[key] for key in seen], np.int64))


def share(text: str) -> float:
    """The share, above 0 and up to 1, that a text such as ``5%`` or ``0.05`` gives, or a UserError."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise UserError(
            f"--labels {text}: neither a file nor a share above 0 and up to 1, such as 5% or 0.05"
        )
    return value
