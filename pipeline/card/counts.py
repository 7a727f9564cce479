"""The counts of a set by its manifests: stages, reasons, splits, checks, labels.

Manifests are read in batches, and where a question is about all rows at once by the one or two columns
that it needs, so that ten million rows fit into memory.
"""

import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from common import manifest
from common.layout import SPLITS, Layout
from common.storage import Address
from pipeline.verify.manifests import in_two_splits, repeated


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
    """The counts that the page shows.

    Attributes:
        dataset: its name.
        sources, samples: rows of the manifests.
        listed: refused while the input was listed, by reason, most first.
        later: refused while it was aligned or parsed, by reason, most first.
        notices: of samples, by code, most first.
        splits: of each that has samples, ``name``, ``samples``, ``shards``, ``identities`` (None if nobody's
            is known) and ``confidence``, the mean over the samples.
        checks: (what must hold, how often it does not).
        numerics: what the parser computed on and in; several if the set was continued on another machine.
        stages: what the last run of each stage took, by name; see ``stages.json``.
        labels: the attributes.
    """

    dataset: str
    sources: int
    samples: int
    listed: dict[str, int]
    later: dict[str, int]
    notices: dict[str, int]
    splits: list[dict[str, Any]]
    checks: list[tuple[str, int]]
    numerics: list[str]
    stages: dict[str, dict[str, float]]
    labels: Labels


def count_all(layout: Layout) -> Counts:
    """Read the manifests of a set.

    Raises:
        UserError: there are no finished shards.
    """
    samples = manifest.read(layout.require_samples(), [])
    listed, later = _refused(layout)
    splits, notices = _splits(layout.samples)
    twice = {
        name: len(in_two_splits(manifest.read(layout.samples, [name, "split"]).table, name))
        for name in ("source", "identity")
    }
    return Counts(
        dataset=samples.metadata["dataset"],
        sources=manifest.read(layout.source, []).table.num_rows,
        samples=samples.table.num_rows,
        listed=listed,
        later=later,
        notices=notices,
        splits=splits,
        checks=[
            ("every source became a sample or is in the quarantine", _unaccounted(layout)),
            ("no key occurs twice", len(repeated(manifest.read(layout.samples, ["key"]).table["key"]))),
            ("no photo is in two splits", twice["source"]),
            ("no identity is in two splits", twice["identity"]),
        ],
        numerics=samples.metadata.get(manifest.NUMERICS, "").split("\n"),
        stages=_stages(layout.manifests / "stages.json"),
        labels=_labels(layout.samples, samples.attributes),
    )


def _refused(layout: Layout) -> tuple[dict[str, int], dict[str, int]]:
    """Sources by reason: refused while they were listed, and later."""
    quarantine = manifest.read(layout.quarantine, ["source", "reason"]).table
    early = pa.Table.from_batches(
        (
            batch.filter(pc.is_valid(batch["reason"]))
            for batch in manifest.batches(layout.source, ["source", "reason"])
        ),
        pa.schema([("source", pa.string()), ("reason", pa.string())]),
    )
    known = pc.is_in(quarantine["source"], early["source"])
    return _counted(early["reason"]), _counted(quarantine.filter(pc.invert(known))["reason"])


def _counted(values: pa.ChunkedArray | pa.Array) -> dict[str, int]:
    counts = [(row["values"], row["counts"]) for row in pc.value_counts(values.drop_null()).to_pylist()]
    return dict(sorted(counts, key=lambda item: (-item[1], item[0])))


def _unaccounted(layout: Layout) -> int:
    kept = manifest.read(layout.samples, ["source"]).table["source"]
    refused = manifest.read(layout.quarantine, ["source"]).table["source"]
    known = pa.chunked_array([*kept.chunks, *refused.chunks], pa.string())
    sources = manifest.read(layout.source, ["source"]).table["source"]
    return int(pc.sum(pc.invert(pc.is_in(sources, known))).as_py() or 0)


def _splits(path: Address) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The splits that have samples, and the samples by notice, most first."""
    samples, rated, notices = Counter[str](), Counter[str](), Counter[str]()
    confidence, shards = dict.fromkeys(SPLITS, 0.0), defaultdict[str, set[str]](set)
    for batch in manifest.batches(path, ["split", "shard", "confidence", "notices"]):
        for codes, count in _counted(batch["notices"]).items():
            for code in codes.split():
                notices[code] += count
        for name in SPLITS:
            rows = batch.filter(pc.equal(batch["split"], name))
            samples[name] += rows.num_rows
            shards[name].update(pc.unique(rows["shard"]).to_pylist())
            rated[name] += rows.num_rows - rows["confidence"].null_count
            confidence[name] += pc.sum(rows["confidence"]).as_py() or 0.0
    identities = manifest.read(path, ["split", "identity"]).table.group_by("split")
    people = identities.aggregate([("identity", "count_distinct")]).to_pylist()
    known = {row["split"]: row["identity_count_distinct"] or None for row in people}
    splits = [
        {
            "name": name,
            "samples": samples[name],
            "shards": len(shards[name]),
            "identities": known.get(name),
            "confidence": confidence[name] / max(1, rated[name]),
        }
        for name in SPLITS
        if samples[name]
    ]
    return splits, dict(sorted(notices.items(), key=lambda item: (-item[1], item[0])))


def _stages(path: Address) -> dict[str, dict[str, float]]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _labels(path: Address, names: tuple[str, ...]) -> Labels:
    size = len(names)
    both, first, pairs = (np.zeros((size, size), np.int64) for _ in range(3))
    labelled = 0
    for batch in manifest.batches(path, list(names)) if names else ():
        values = np.stack([np.asarray(batch[name].fill_null(-1)) for name in names], axis=1)
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
