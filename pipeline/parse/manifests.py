"""From the records of all shards to ``shards.parquet`` and ``quarantine.parquet``."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

import pyarrow as pa

from common import freshness, manifest
from common.alignment.recipe import METADATA_KEY, RECIPE_FILE, Recipe
from common.errors import UserError
from common.layout import SPLITS, Layout
from common.members import FEATURE_MEMBERS
from common.storage import Address, list_folder, read_bytes
from common.tables import Database, add_parquet, connect, insert_batches, quoted, write_parquet
from pipeline.parse.shard import ParseTask
from pipeline.runner.finished_shards import FinishedShards
from pipeline.runner.planned_shards import PlannedShards
from pipeline.runner.shard_record import ShardRecord, read_record

UPDATED: Final = "records-manifests.json"
"""Name of the file beside the manifests that says what they were written from."""


OF_SOURCE: Final = ("split", "status", "notices", "identity")
"""Columns of a sample that its record does not have."""


@dataclass(frozen=True)
class Written:
    """What the manifests hold.

    Attributes:
        samples: rows of ``shards.parquet``.
        refused: rows of ``quarantine.parquet``.
        summary: lines about both for people.
    """

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
    shards = [
        shard.get(tar) for task in tasks for shard, tar in ((aligned, task.aligned), (finished, task.tar))
    ]
    plan = hashlib.sha256(read_bytes(layout.source)).hexdigest()
    stamps = [shard and shard.stamp for shard in shards]
    records = freshness.fingerprint(plan, _recipe(planned, layout), stamps)
    made_from, note = {"code": freshness.code_hash(__name__), "records": records}, layout.manifests / UPDATED
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
    """Write both manifests.

    Raises:
        UserError: a record is missing.
        RuntimeError: a source is neither in a sample nor quarantined, or both; a defect here.
    """
    metadata = {"dataset": planned.metadata["dataset"]}
    bystanders = False
    if recipe := _recipe(planned, layout):
        metadata[METADATA_KEY] = recipe
        bystanders = Recipe.read(recipe, str(layout.aligned)).align.bystander_labels
    with connect() as database:
        add_parquet(database, "sources", layout.source)
        features, numerics = _store_records(database, planned, tasks)
        _join(database, planned.attributes, bystanders)
        [(kept, refusals)] = database.execute(
            "SELECT (SELECT count(DISTINCT source) FROM samples), (SELECT count(*) FROM refusals)"
        ).fetchall()
        if kept + refusals != planned.sources:
            raise RuntimeError(
                f"{planned.sources} sources, but {kept} with samples and {refusals} quarantined"
            )
        if numerics:
            metadata[manifest.NUMERICS] = "\n".join(sorted(numerics))
        samples = write_parquet(
            database,
            layout.samples,
            'SELECT * FROM samples ORDER BY shard, "jpg.offset"',
            schema=manifest.with_attributes(manifest.sample_fields(features), planned.attributes),
            metadata={**metadata, "attributes": "\n".join(planned.attributes)},
        )
        write_parquet(
            database,
            layout.quarantine,
            "FROM refusals ORDER BY source",
            schema=manifest.QUARANTINE_FIELDS,
            metadata={**metadata, "attributes": ""},
        )
        return Written(samples, refusals, _summary(database))


def _recipe(planned: PlannedShards, layout: Layout) -> str:
    """How photos were aligned; empty in sets of versions that did not say."""
    try:
        return read_bytes(layout.aligned / planned.metadata["dataset"] / RECIPE_FILE).decode().strip()
    except FileNotFoundError:
        return ""


def _store_records(
    database: Database, planned: PlannedShards, tasks: Sequence[ParseTask]
) -> tuple[list[str], set[str]]:
    """Make the tables ``faces`` and ``refusals`` of the records of all shards.

    Returns:
        The features that samples have, and what their parsers computed in.
    """
    columns = [field for field in manifest.sample_fields(FEATURE_MEMBERS) if field.name not in OF_SOURCE]
    schema = pa.schema([*columns, ("align_notices", pa.list_(pa.string()))])
    database.register("no_faces", schema.empty_table())
    database.execute("CREATE TABLE faces AS FROM no_faces")
    database.execute(
        "CREATE TABLE refusals AS SELECT source, reason, detail FROM sources WHERE reason IS NOT NULL"
    )
    features, numerics = set[str](), set[str]()
    for task, shard in zip(tasks, planned.shards, strict=True):
        finished, aligned = _record(task.tar), _record(task.aligned)
        notices = {row["key"]: row["notices"] for row in aligned.samples}
        faces = [row | {"shard": shard, "align_notices": notices[row["key"]]} for row in finished.samples]
        refused = [*aligned.quarantined, *finished.quarantined]
        insert_batches(database, "faces", [pa.RecordBatch.from_pylist(faces, schema)])
        rows = pa.RecordBatch.from_pylist(refused, manifest.QUARANTINE_FIELDS)
        insert_batches(database, "refusals", [rows] if refused else [])
        features.update(name for name in FEATURE_MEMBERS if faces and f"{name}.size" in faces[0])
        numerics.add(finished.numerics)
    return [name for name in FEATURE_MEMBERS if name in features], numerics - {""}


def _join(database: Database, attributes: Sequence[str], bystander_labels: bool) -> None:
    """Make the view ``samples`` of the faces with what the plan says of their sources.

    Args:
        database: has ``faces``, ``refusals``, and the plan as ``sources``.
        attributes: names of the attribute columns.
        bystander_labels: whether further faces of a photo have its labels and identity, too: a bystander is
            not whom they describe.
    """
    described = f"CASE WHEN {bystander_labels} OR faces.key = sources.key THEN {{0}} END AS {{0}}"
    labels = ", ".join(described.format(quoted(name)) for name in ("identity", *attributes))
    database.execute(f"""
        CREATE VIEW samples AS
        SELECT faces.*, split, 'ok' AS status, {labels}, nullif(array_to_string(list_sort(list_distinct(
            list_concat(string_split(notices, ' '), align_notices))), ' '), '') AS notices
        FROM faces JOIN sources USING (source)
    """)


def _summary(database: Database) -> str:
    """What a run kept and refused, a line per split, reason and notice."""
    splits, reasons, notices = (
        dict(database.execute(query).fetchall())
        for query in (
            "SELECT split, count(*) FROM samples GROUP BY ALL",
            "SELECT reason, count(*) FROM refusals GROUP BY ALL",
            """
            SELECT notice, count(DISTINCT source)
            FROM samples, unnest(string_split(notices, ' ')) AS each(notice) GROUP BY ALL
            """,
        )
    )
    lines = [(split, splits[split]) for split in SPLITS if split in splits]
    lines += [(f"quarantined: {reason}", count) for reason, count in sorted(reasons.items())]
    lines += [(f"kept with a notice: {notice}", count) for notice, count in sorted(notices.items())]
    return "\n".join(f"  {name:<38}{count:>10,}" for name, count in lines)


def _record(tar: Address) -> ShardRecord:
    record = read_record(tar)
    if record is None:
        raise UserError(f"{tar} vanished during the run; run the command again")
    return record
