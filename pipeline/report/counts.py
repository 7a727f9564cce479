"""Counts over all rows of the manifests, read piece by piece and only the columns that are counted."""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from contract import manifest
from contract.errors import UserError
from contract.layout import SPLITS, Layout
from contract.shards import MEMBERS
from contract.storage import Address
from pipeline.quarantine import WORKER_DIED
from pipeline.record import StageRun
from pipeline.report.facts import Check, Counts, Labels, Refusal, Split
from pipeline.verify.findings import CHECKS, EXAMPLES
from pipeline.verify.manifests import in_two_splits, repeated

EXTREMES: Final = 8
"""Samples that are shown with the least, and with the greatest, confidence."""

BINS: Final = 100
"""Steps of the confidence, 0 to 1."""

STAGES: Final = ("ingest", "align", "parse")


@dataclass
class _Tally:
    """Running sums over the samples; see `Counts` and `Labels`."""

    attributes: tuple[str, ...]
    samples: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(SPLITS), np.int64))
    labelled: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(SPLITS), np.int64))
    shards: list[set[str]] = field(default_factory=lambda: [set() for _ in SPLITS])
    notices: Counter[str] = field(default_factory=Counter)
    confidence: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    member_bytes: int = 0
    lowest: list[tuple[float, int]] = field(default_factory=list)
    highest: list[tuple[float, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        count = len(self.attributes)
        self.yes, self.known = np.zeros((2, len(SPLITS), count), np.int64)
        self.both_known, self.both_yes, self.yes_of_known = np.zeros((3, count, count), np.int64)

    def add(self, batch: pa.RecordBatch, start: int) -> None:
        """Count rows of which the first is at `start` in the manifest."""
        split = pc.index_in(batch["split"], value_set=pa.array(SPLITS))
        if split.null_count:
            wrong = batch["split"].filter(pc.is_null(split))[0].as_py()
            raise UserError(f"shards.parquet has split {wrong!r}; `python -m pipeline.verify` says where")
        splits = np.asarray(split)
        self.samples += np.bincount(splits, minlength=len(SPLITS))
        for number in np.unique(splits):
            named = pc.unique(batch["shard"].filter(pa.array(splits == number)))
            self.shards[number].update(named.to_pylist())
        self.member_bytes += sum(pc.sum(batch[f"{name}.size"]).as_py() or 0 for name in MEMBERS)
        for row in pc.value_counts(batch["notices"].drop_null()).to_pylist():
            for code in row["values"].split():
                self.notices[code] += row["counts"]
        self._add_labels(batch, splits)
        self._add_confidence(np.asarray(batch["confidence"], np.float64), start)

    def _add_labels(self, batch: pa.RecordBatch, splits: NDArray[np.int32]) -> None:
        columns = [np.asarray(batch[name].fill_null(-1)).astype(np.int8) for name in self.attributes]
        labels = np.stack(columns, axis=1) if columns else np.empty((len(splits), 0), np.int8)
        self.labelled += np.bincount(splits[(labels >= 0).any(axis=1)], minlength=len(SPLITS))
        for number in range(len(SPLITS)):
            mine = labels[splits == number]
            self.known[number] += (mine >= 0).sum(axis=0)
            self.yes[number] += (mine == 1).sum(axis=0)
        # Sums of at most BATCH_ROWS ones are exact in float32, whose products are far faster than integers'.
        known, yes = (labels >= 0).astype(np.float32), (labels == 1).astype(np.float32)
        self.both_known += (known.T @ known).astype(np.int64)
        self.both_yes += (yes.T @ yes).astype(np.int64)
        self.yes_of_known += (yes.T @ known).astype(np.int64)

    def _add_confidence(self, values: NDArray[np.float64], start: int) -> None:
        places = np.flatnonzero(np.isfinite(values))
        values = values[places]
        bins = np.clip((values * BINS).astype(np.int64), 0, BINS - 1)
        self.confidence += np.bincount(bins, minlength=BINS)
        order = np.argsort(values, kind="stable")
        first, last = order[:EXTREMES], np.argsort(-values, kind="stable")[:EXTREMES]
        self.lowest += [(float(values[i]), start + int(places[i])) for i in first]
        self.highest += [(-float(values[i]), start + int(places[i])) for i in last]
        self.lowest, self.highest = sorted(self.lowest)[:EXTREMES], sorted(self.highest)[:EXTREMES]


def count(layout: Layout) -> Counts:
    """What the manifests say about all samples and sources.

    Raises:
        UserError: there are no finished shards, or a manifest is unreadable.
    """
    head = manifest.read(layout.require_samples(), columns=[])
    tally = _Tally(head.attributes)
    sizes = [f"{name}.size" for name in MEMBERS]
    columns = ["split", "shard", "notices", "confidence", *sizes, *head.attributes]
    start = 0
    for batch in manifest.batches(layout.samples, columns):
        tally.add(batch, start)
        start += batch.num_rows
    refusals = _refusals(layout)
    sources = manifest.read(layout.source, columns=[]).table.num_rows if layout.source.is_file() else None
    known = sources is not None and refusals is not None
    expected = sources - sum(refusal.sources for refusal in refusals) if known else None
    checks, identities = _checks(layout, expected)
    sha256 = hashlib.sha256()
    with layout.samples.open("rb") as stream:
        for piece in iter(lambda: stream.read(1 << 20), b""):
            sha256.update(piece)
    return Counts(
        dataset=head.facts.get("dataset", ""),
        samples=start,
        sources=sources,
        member_bytes=tally.member_bytes,
        splits=[
            Split(name, int(samples), int(tally.labelled[i]), identities.get(name, 0), len(tally.shards[i]))
            for i, (name, samples) in enumerate(zip(SPLITS, tally.samples, strict=True))
            if samples
        ],
        refusals=refusals,
        notices=sorted(tally.notices.items(), key=lambda item: (-item[1], item[0])),
        checks=checks,
        confidence=tally.confidence,
        lowest=[position for _, position in tally.lowest],
        highest=[position for _, position in tally.highest],
        labels=Labels(
            names=head.attributes,
            yes=tally.yes,
            known=tally.known,
            both_known=tally.both_known,
            both_yes=tally.both_yes,
            yes_of_known=tally.yes_of_known,
        ),
        runs=_stage_runs(layout.manifests),
        sha256=sha256.hexdigest(),
    )


def _refusals(layout: Layout) -> list[Refusal] | None:
    """The quarantine by stage and reason, None if it is not there. What ingest did not refuse, align did; only a file that ends
    worker processes can have come as far as parse, and counts there.
    """
    if not layout.quarantine.is_file():
        return None
    early: Counter[str] = Counter()
    if layout.source.is_file():
        for batch in manifest.batches(layout.source, ["reason"]):
            early.update(_value_counts(batch["reason"]))
    total: Counter[str] = Counter()
    examples: dict[str, tuple[str, str]] = {}
    for batch in manifest.batches(layout.quarantine, ["source", "reason", "detail"]):
        total.update(_value_counts(batch["reason"]))
        for reason in pc.unique(batch["reason"].drop_null()).to_pylist():
            if reason not in examples:
                first = batch.slice(pc.index(batch["reason"], reason).as_py(), 1).to_pylist()[0]
                examples[reason] = (first["source"], first["detail"] or "")
    found = []
    for reason, sources in total.items():
        late = "parse" if reason == WORKER_DIED else "align"
        for stage, number in (("ingest", min(early[reason], sources)), (late, sources - early[reason])):
            if number > 0:
                found.append(Refusal(stage, reason, number, *examples[reason]))
    return sorted(found, key=lambda refusal: (STAGES.index(refusal.stage), -refusal.sources, refusal.reason))


def _value_counts(values: pa.Array) -> dict[str, int]:
    return {row["values"]: row["counts"] for row in pc.value_counts(values.drop_null()).to_pylist()}


def _checks(layout: Layout, expected: int | None) -> tuple[list[Check], dict[str, int]]:
    """Promises about keys, sources and identities; one column beside the split is in memory at a time.

    Args:
        layout: where the set lies.
        expected: how many sources should have samples, if that is known.

    Returns:
        The checks, and the number of known identities by split.
    """
    table = manifest.read(layout.samples, ["key", "split"]).table
    found = [
        _check(CHECKS["keys"], repeated(table["key"])),
        _check("no key in two splits", in_two_splits(table, "key")),
    ]
    table = manifest.read(layout.samples, ["source", "split"]).table
    found.append(_check("no source in two splits", in_two_splits(table, "source")))
    if expected is not None:
        kept = pc.count_distinct(table["source"]).as_py()
        numbers = [f"{kept:,} have samples, not {expected:,}"] if kept != expected else []
        found.append(Check(CHECKS["sources"], abs(kept - expected), numbers))
    table = manifest.read(layout.samples, ["identity", "split"]).table
    found.append(_check(CHECKS["identities"], in_two_splits(table, "identity")))
    people = table.group_by("split").aggregate([("identity", "count_distinct")])
    return found, dict(
        zip(people["split"].to_pylist(), people["identity_count_distinct"].to_pylist(), strict=True)
    )


def _check(promise: str, values: pa.Array | pa.ChunkedArray) -> Check:
    return Check(promise, len(values), [str(value) for value in values.slice(0, EXAMPLES).to_pylist()])


def _stage_runs(manifests: Address) -> dict[str, StageRun]:
    """What ``stages.json`` says, which is for people and may be missing."""
    try:
        runs = json.loads((manifests / "stages.json").read_text(encoding="utf-8"))
        return {stage: StageRun(**runs[stage]) for stage in STAGES if stage in runs}
    except (OSError, ValueError, TypeError):
        return {}
