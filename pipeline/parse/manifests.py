"""From the records of all shards to ``shards.parquet`` and ``quarantine.parquet``."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from common import freshness, manifest
from common.alignment.recipe import METADATA_KEY, RECIPE_FILE, Recipe
from common.errors import UserError
from common.layout import SPLITS, Layout
from common.members import FEATURE_MEMBERS
from common.storage import Address, list_folder, read_bytes
from common.tables import write_batches
from pipeline.parse.shard import ParseTask
from pipeline.runner.finished_shards import FinishedShards
from pipeline.runner.planned_shards import KEY_DIGITS, PlannedShards, read_planned, stored
from pipeline.runner.shard_record import ShardRecord, read_record

# Columns of a sample that come from its source, besides labels.
OF_SOURCE: Final = ("split", "notices", "identity")

# Columns of a sample that its record has.
OF_RECORD: Final = tuple(
    name
    for name in manifest.sample_fields(FEATURE_MEMBERS).names
    if name not in (*OF_SOURCE, "shard", "status")
)


@dataclass(frozen=True)
class Written:
    """How many rows ``shards.parquet`` and ``quarantine.parquet`` have, and lines about both for people."""

    samples: int
    refused: int
    summary: str


def update_manifests(
    planned: PlannedShards,
    tasks: Sequence[ParseTask],
    layout: Layout,
    aligned: FinishedShards,
    finished: FinishedShards,
) -> Written:
    """Write both manifests unless they were written from the same plan and records, and print what they hold.

    Raises:
        UserError: a record is missing.
        OSError: a store does not answer.
        RuntimeError: as for `write_manifests`.
    """
    tars = [pair for task in tasks for pair in ((aligned, task.aligned), (finished, task.tar))]
    shards = [stage.shards.get(tar.name) for stage, tar in tars]
    plan = hashlib.sha256(read_bytes(layout.source)).hexdigest()
    stamps = [shard and shard.stamp for shard in shards]
    records = freshness.fingerprint(plan, _recipe(planned, layout), stamps)
    made_from = {"code": freshness.code_hash(__name__), "records": records}
    note = layout.manifests / "records-manifests.json"
    before = freshness.read_record(note, made_from)
    if before and before["files"] == _stamps(layout):
        written = Written(**before["written"])
    else:
        written = write_manifests(planned, tasks, layout)
        freshness.write_record(note, {"files": _stamps(layout), "written": asdict(written)}, made_from)
    print(written.summary)
    return written


def _stamps(layout: Layout) -> dict[str, str | None]:
    files = list_folder(layout.manifests)
    return {path.name: files.get(path.name) for path in (layout.samples, layout.quarantine)}


def write_manifests(planned: PlannedShards, tasks: Sequence[ParseTask], layout: Layout) -> Written:
    """Write both manifests, in the memory that one shard needs.

    Raises:
        UserError: a record is missing.
        RuntimeError: a source is neither in a sample nor quarantined, or both; a defect here.
    """
    metadata = {"dataset": planned.metadata["dataset"]}
    bystanders = False
    if recipe := _recipe(planned, layout):
        metadata[METADATA_KEY] = recipe
        bystanders = Recipe.read(recipe, str(layout.aligned)).align.bystander_labels
    columns = ["source", "sha256", *OF_SOURCE, *planned.attributes]
    described, totals = read_planned(layout.source, columns), _Totals()
    schema = manifest.with_attributes(manifest.sample_fields(FEATURE_MEMBERS), planned.attributes)
    samples = stored(
        (name, _samples(task, name, rows.read(), schema, bystanders, totals))
        for task, (name, rows) in zip(tasks, described.shards.items(), strict=True)
    )
    refused = pa.Table.from_batches(
        [*planned.refused.to_batches(), *totals.refused], manifest.QUARANTINE_FIELDS
    )
    if totals.sources + len(refused) != planned.sources:
        raise RuntimeError(
            f"{planned.sources} sources, but {totals.sources} with samples and {len(refused)} quarantined"
        )
    if totals.numerics:
        metadata[manifest.NUMERICS] = "\n".join(sorted(totals.numerics))
    features = [name for name in FEATURE_MEMBERS if name in totals.features]
    written = write_batches(
        layout.samples,
        (rows.read() for rows in samples.values()),
        manifest.with_attributes(manifest.sample_fields(features), planned.attributes),
        {**metadata, "attributes": "\n".join(planned.attributes)},
    )
    write_batches(
        layout.quarantine,
        refused.sort_by("source").to_batches(),
        manifest.QUARANTINE_FIELDS,
        {**metadata, "attributes": ""},
    )
    return Written(written, len(refused), _summary(totals, refused))


def _recipe(planned: PlannedShards, layout: Layout) -> str:
    """How photos were aligned; empty in sets of versions that did not say."""
    try:
        return read_bytes(layout.aligned / planned.metadata["dataset"] / RECIPE_FILE).decode().strip()
    except FileNotFoundError:
        return ""


@dataclass
class _Totals:
    """What the records of all shards add up to; ``notices`` counts sources, ``splits`` samples."""

    sources: int = 0
    refused: list[pa.RecordBatch] = field(default_factory=list)
    features: set[str] = field(default_factory=set)
    numerics: set[str] = field(default_factory=set)
    splits: Counter[str] = field(default_factory=Counter)
    notices: Counter[str] = field(default_factory=Counter)


def _samples(
    task: ParseTask, shard: str, plan: pa.RecordBatch, schema: pa.Schema, bystanders: bool, totals: _Totals
) -> pa.RecordBatch:
    """The samples of a shard in their order in the tar, with what `plan`, its sources, says of them.

    Unless `bystanders` says so, further faces of a photo have no labels and no identity: a bystander is not
    whom they describe. `totals` is added to.
    """
    finished, aligned = _record(task.tar), _record(task.aligned)
    rows = sorted(finished.samples, key=lambda row: row["jpg.offset"])
    own = {name: pa.array([row.get(name) for row in rows], schema.field(name).type) for name in OF_RECORD}
    positions = pc.index_in(own["source"], plan["source"])
    if positions.null_count:
        raise RuntimeError(f"{task.tar}: a sample of a source that is not planned for it")
    described = plan.take(positions)
    about = own["key"] if bystanders else pc.utf8_slice_codeunits(described["sha256"], 0, KEY_DIGITS)
    labelled = pc.equal(own["key"], about)
    of_aligned = {row["key"]: row["notices"] for row in aligned.samples}
    notices = [
        sorted({*(planned or "").split(), *of_aligned[row["key"]]})
        for row, planned in zip(rows, described["notices"].to_pylist(), strict=True)
    ]
    columns = {
        **{name: pc.if_else(labelled, described[name], None) for name in plan.schema.names},
        **own,
        "shard": pa.repeat(shard, len(rows)),
        "split": described["split"],
        "status": pa.repeat("ok", len(rows)),
        "notices": pa.array([" ".join(each) or None for each in notices], pa.string()),
    }
    totals.sources += len(own["source"].unique())
    refused = [*aligned.quarantined, *finished.quarantined]
    totals.refused.append(pa.RecordBatch.from_pylist(refused, manifest.QUARANTINE_FIELDS))
    totals.features.update(name for name in FEATURE_MEMBERS if rows and f"{name}.size" in rows[0])
    totals.numerics.update({finished.numerics} - {""})
    totals.splits.update(described["split"].to_pylist())
    of_sources = {(row["source"], name) for row, each in zip(rows, notices, strict=True) for name in each}
    totals.notices.update(name for _, name in of_sources)
    return pa.RecordBatch.from_arrays(
        [columns[name].cast(schema.field(name).type) for name in schema.names], schema=schema
    )


def _summary(totals: _Totals, refused: pa.Table) -> str:
    reasons = Counter(refused["reason"].to_pylist())
    lines = [(split, totals.splits[split]) for split in SPLITS if split in totals.splits]
    lines += [(f"quarantined: {reason}", count) for reason, count in sorted(reasons.items())]
    lines += [(f"kept with a notice: {notice}", count) for notice, count in sorted(totals.notices.items())]
    return "\n".join(f"  {name:<38}{count:>10,}" for name, count in lines)


def _record(tar: Address) -> ShardRecord:
    record = read_record(tar)
    if record is None:
        raise UserError(f"{tar} vanished during the run; run the command again")
    return record
