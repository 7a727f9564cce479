"""What the result page shows of the shards: counts, faces with masks, and where the parts are."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from common import manifest
from common.errors import UserError
from common.layout import SPLITS, Layout
from common.sampling import evenly_spaced
from common.shards import (
    BrokenSample,
    decode_cell_counts,
    decode_face,
    decode_mask,
    decode_metadata,
    extent_of,
    read_member,
    read_sample,
)
from training.report.results import Face, Presence, Split

PRESENCE_SAMPLES: Final = 300
"""Samples whose part counts are averaged."""


def label_matrix(samples: manifest.Manifest) -> NDArray[np.int8]:
    """The labels of all samples, int8 (N, A): 0 or 1, -1 where unknown."""
    columns = [np.asarray(samples.table[name].fill_null(-1)).astype(np.int8) for name in samples.attributes]
    return np.stack(columns, axis=1) if columns else np.empty((samples.table.num_rows, 0), np.int8)


def count_splits(
    samples: manifest.Manifest, splits: NDArray[np.str_], labels: NDArray[np.int8]
) -> list[Split]:
    """The counts of every split that has samples; labels are those of `label_matrix`."""
    known = np.asarray((labels >= 0).any(axis=1))
    shards = np.array(samples.table["shard"].to_pylist(), dtype=object)
    identities = np.array(samples.table["identity"].to_pylist(), dtype=object)
    found = []
    for name in SPLITS:
        rows = splits == name
        if rows.any():
            people = {person for person in identities[rows] if person is not None}
            found.append(
                Split(name, int(rows.sum()), int(known[rows].sum()), len(people), len(set(shards[rows])))
            )
    return found


def spread(positions: NDArray[np.int64], count: int) -> list[int]:
    """At most `count` of the positions, evenly spaced."""
    return positions[evenly_spaced(count, len(positions))].tolist()


def read_face(layout: Layout, samples: manifest.Manifest, position: int) -> Face:
    """The sample in one row of the manifest.

    Raises:
        UserError: the shard does not hold what the manifest says.
    """
    row = samples.table.slice(position, 1).to_pylist()[0]
    try:
        members = read_sample(layout.shards, row)
        return Face(
            key=row["key"],
            image=decode_face(members["jpg"]),
            mask=decode_mask(members["mask.png"]),
            facts=decode_metadata(members["json"]),
        )
    except BrokenSample as error:
        raise UserError(f"{layout.shards / row['shard']}, sample {row['key']}: {error}") from error


def read_presence(layout: Layout, samples: manifest.Manifest) -> Presence | None:
    """Where the parts are, over samples that are spread over all shards; None without samples."""
    positions = spread(np.arange(samples.table.num_rows), PRESENCE_SAMPLES)
    if not positions:
        return None
    found = []
    for row in samples.table.take(positions).to_pylist():
        try:
            found.append(
                decode_cell_counts(read_member(layout.shards, row["shard"], extent_of(row, "parts.npy"))) > 0
            )
        except BrokenSample as error:
            raise UserError(f"{layout.shards / row['shard']}, sample {row['key']}: {error}") from error
    present = np.stack(found)
    return Presence(len(found), present.mean(axis=0), present.any(axis=(1, 2)).mean(axis=0))
