"""What the manifests say of a set: stages, reasons, splits, checks, labels.

Manifests are read by columns and in batches, so that ten million rows fit into memory.
"""

import json
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from contract import manifest
from contract.layout import SPLITS, Layout
from contract.storage import Address
from pipeline.verify.manifests import in_two_splits, repeated

ROWS: int = 1 << 16
"""Rows of label columns that are in memory at a time."""


@dataclass(frozen=True)
class Split:
    """One split.

    Attributes:
        name: of `contract.layout.SPLITS`.
        samples, shards: how many.
        identities: how many people, or None if nobody's is known.
        confidence: mean over the samples.
    """

    name: str
    samples: int
    shards: int
    identities: int | None
    confidence: float


@dataclass(frozen=True)
class Labels:
    """Attributes over all samples.

    Attributes:
        names: A of them.
        yes, known: int64 (A,), samples with a 1, and with a 0 or a 1.
        phi: float64 (A, A), correlation of each two over the samples that have both; NaN where one of
            them is constant.
        labelled: samples with at least one known attribute.
    """

    names: tuple[str, ...]
    yes: NDArray[np.int64]
    known: NDArray[np.int64]
    phi: NDArray[np.float64]
    labelled: int


@dataclass(frozen=True)
class Counts:
    """All that the page says in numbers.

    Attributes:
        dataset: its name.
        sources, samples: rows of the manifests.
        listed: refused while the input was listed, by reason, most first.
        later: refused while it was aligned or parsed, by reason, most first.
        notices: of samples, by code, most first.
        splits: those that have samples.
        checks: (what must hold, how often it does not).
        stages: what the last run of each stage took, by name; see ``stages.json``.
        labels: the attributes.
    """

    dataset: str
    sources: int
    samples: int
    listed: dict[str, int]
    later: dict[str, int]
    notices: dict[str, int]
    splits: list[Split]
    checks: list[tuple[str, int]]
    stages: dict[str, dict[str, float]]
    labels: Labels


def count_all(layout: Layout) -> Counts:
    """Read the manifests of a set.

    Raises:
        UserError: there are no finished shards.
    """
    columns = ["key", "shard", "split", "identity", "source", "confidence", "notices"]
    samples = manifest.read(layout.require_samples(), columns)
    source = manifest.read(layout.source, ["source", "reason"]).table
    quarantine = manifest.read(layout.quarantine, ["source", "reason"]).table
    refused = quarantine.filter(
        pc.invert(pc.is_in(quarantine["source"], source.filter(pc.is_valid(source["reason"]))["source"]))
    )
    table = samples.table
    return Counts(
        dataset=samples.facts["dataset"],
        sources=source.num_rows,
        samples=table.num_rows,
        listed=_counted(source["reason"]),
        later=_counted(refused["reason"]),
        notices=_notices(table["notices"]),
        splits=_splits(table),
        checks=[
            ("every source became a sample or is in the quarantine", _unaccounted(source, table, quarantine)),
            ("no key occurs twice", len(repeated(table["key"]))),
            ("no photo is in two splits", len(in_two_splits(table, "source"))),
            ("no identity is in two splits", len(in_two_splits(table, "identity"))),
        ],
        stages=_stages(layout.manifests / "stages.json"),
        labels=_labels(layout.samples, samples.attributes),
    )


def _counted(values: pa.ChunkedArray) -> dict[str, int]:
    found = [(row["values"], row["counts"]) for row in pc.value_counts(values.drop_null()).to_pylist()]
    return dict(sorted(found, key=lambda item: (-item[1], item[0])))


def _notices(values: pa.ChunkedArray) -> dict[str, int]:
    counted: Counter[str] = Counter()
    for codes, count in _counted(values).items():
        for code in codes.split():
            counted[code] += count
    return dict(sorted(counted.items(), key=lambda item: (-item[1], item[0])))


def _unaccounted(source: pa.Table, samples: pa.Table, quarantine: pa.Table) -> int:
    known = pa.chunked_array([*samples["source"].chunks, *quarantine["source"].chunks], pa.string())
    return int(pc.sum(pc.invert(pc.is_in(source["source"], known))).as_py() or 0)


def _splits(table: pa.Table) -> list[Split]:
    found = []
    for name in SPLITS:
        rows = table.filter(pc.equal(table["split"], name))
        if rows.num_rows:
            people = pc.count_distinct(rows["identity"]).as_py()
            found.append(
                Split(
                    name,
                    rows.num_rows,
                    pc.count_distinct(rows["shard"]).as_py(),
                    people or None,
                    pc.mean(rows["confidence"]).as_py() or 0.0,
                )
            )
    return found


def _stages(place: Address) -> dict[str, dict[str, float]]:
    try:
        return dict(json.loads(place.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _labels(place: Address, names: tuple[str, ...]) -> Labels:
    size = len(names)
    both, first, pairs = (np.zeros((size, size), np.int64) for _ in range(3))
    labelled = 0
    with place.open("rb") as stream:
        batches = pq.ParquetFile(stream).iter_batches(ROWS, columns=list(names)) if names else ()
        for batch in batches:
            values = np.stack([np.asarray(column.fill_null(-1)) for column in batch.columns], axis=1)
            known, yes = (values >= 0).astype(np.float64), (values == 1).astype(np.float64)
            labelled += int(known.any(axis=1).sum())
            # Sums of zeros and ones below 2^53 are exact as float64, where matrix products are quick.
            both += (known.T @ known).astype(np.int64)
            first += (yes.T @ known).astype(np.int64)
            pairs += (yes.T @ yes).astype(np.int64)
    return Labels(names, first.diagonal().copy(), both.diagonal().copy(), _phi(both, first, pairs), labelled)


def _phi(both: NDArray[np.int64], first: NDArray[np.int64], pairs: NDArray[np.int64]) -> NDArray[np.float64]:
    """Pearson's correlation of two binary variables, from counts.

    Args:
        both: (A, A), samples that have both labels; n.
        first: of those, with a yes for the row's attribute.
        pairs: with a yes for both.
    """
    n, x, y, xy = (values.astype(np.float64) for values in (both, first, first.T, pairs))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((n * xy - x * y) / np.sqrt(x * (n - x) * y * (n - y)))
