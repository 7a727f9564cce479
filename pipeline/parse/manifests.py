"""From the records of all shards to ``shards.parquet`` and ``quarantine.parquet``, a shard at a time."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import pyarrow as pa

from common import manifest
from common.alignment.recipe import METADATA_KEY, RECIPE_FILE, Recipe
from common.errors import UserError
from common.files import write_text
from common.freshness import code_hash, fingerprint
from common.layout import SPLITS, Layout
from common.shards import FEATURE_MEMBERS
from common.storage import Address, list_folder, read_bytes
from pipeline.parse.shard import ParseTask
from pipeline.runner.finished_shards import FinishedShards
from pipeline.runner.planned_shards import PlannedShards, ShardRows
from pipeline.runner.quarantine import table
from pipeline.runner.shard_record import ShardRecord, read_record

UPDATED: Final = "records-manifests.json"
"""Name of the file beside the manifests that says what they were written from."""


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
    made_from = fingerprint(code_hash(__name__), plan, _recipe(planned, layout), stamps)
    try:
        before = json.loads(read_bytes(layout.manifests / UPDATED))
    except (FileNotFoundError, ValueError):
        before = {}
    if before.get("made_from") == made_from and before.get("files") == _stamps(layout):
        written = Written(**before["written"])
    else:
        written = write_manifests(planned, tasks, layout)
        note = {"made_from": made_from, "files": _stamps(layout), "written": asdict(written)}
        write_text(layout.manifests / UPDATED, json.dumps(note) + "\n")
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
    merged = _Records(planned, tasks, bystanders)
    manifest.write_pieces(layout.samples, merged.samples(), planned.attributes, metadata, merged.numerics)
    refused = pa.concat_tables(merged.refused).sort_by("source").combine_chunks()
    manifest.write_table(layout.quarantine, refused, (), metadata | merged.numerics)
    splits = {split: merged.splits[split] for split in SPLITS if merged.splits[split]}
    summary = table(splits, manifest.counts(refused["reason"]), merged.notices)
    return Written(merged.splits.total(), refused.num_rows, summary)


def _recipe(planned: PlannedShards, layout: Layout) -> str:
    """How photos were aligned; empty in sets of versions that did not say."""
    try:
        return read_bytes(layout.aligned / planned.metadata["dataset"] / RECIPE_FILE).decode().strip()
    except FileNotFoundError:
        return ""


class _Records:
    """The records of all shards, joined to their sources one shard at a time.

    Args:
        planned: the plan.
        tasks: a task per planned shard, in the order of their names.
        bystander_labels: whether further faces of a photo have its labels and identity.
    """

    def __init__(self, planned: PlannedShards, tasks: Sequence[ParseTask], bystander_labels: bool) -> None:
        self._planned, self._tasks, self._bystander_labels = planned, tasks, bystander_labels
        self.refused = [planned.refused]
        self.splits: Counter[str] = Counter()
        self.notices: Counter[str] = Counter()
        self.numerics: dict[str, str] = {}

    def samples(self) -> Iterator[pa.Table]:
        """The rows of each shard; the attributes of this object are complete after the last.

        Raises:
            UserError: a record is missing.
            RuntimeError: a source is neither in a sample nor quarantined, or both.
        """
        fields: pa.Schema | None = None
        numerics = set[str]()
        kept = 0
        for task, (shard, planned) in zip(self._tasks, self._planned, strict=True):
            finished, aligned = require_record(task.tar), require_record(task.aligned)
            refused = [*aligned.quarantined, *finished.quarantined]
            self.refused.append(pa.Table.from_pylist(refused, manifest.QUARANTINE_FIELDS))
            numerics.add(finished.numerics)
            rows = self._join(shard, planned, finished, aligned)
            kept += len({row["source"] for row in rows})
            if rows:
                fields = fields or self._fields(rows[0])
                yield pa.Table.from_pylist(rows, fields)
        if fields is None:
            yield self._fields({}).empty_table()
        refusals = sum(table.num_rows for table in self.refused)
        if kept + refusals != self._planned.sources:
            raise RuntimeError(
                f"{self._planned.sources} sources, but {kept} with samples and {refusals} quarantined"
            )
        if lines := "\n".join(sorted(numerics - {""})):
            self.numerics[manifest.NUMERICS] = lines

    def _fields(self, row: dict[str, Any]) -> pa.Schema:
        features = (name for name in FEATURE_MEMBERS if f"{name}.size" in row)
        return manifest.with_attributes(manifest.sample_fields(features), self._planned.attributes)

    def _join(
        self, shard: str, planned: ShardRows, finished: ShardRecord, aligned: ShardRecord
    ) -> list[dict[str, Any]]:
        origins = {row["source"]: row for row in planned}
        notices = {row["key"]: row["notices"] for row in aligned.samples}
        rows = []
        of_source: dict[str, set[str]] = {}
        for row in finished.samples:
            origin = origins[row["source"]]
            codes = {*(origin["notices"] or "").split(), *notices[row["key"]]}
            # A bystander is not whom the labels of the photo describe.
            if row["key"] != origin["key"] and not self._bystander_labels:
                origin = {**origin, **dict.fromkeys((*self._planned.attributes, "identity"))}
            own = {"shard": shard, "status": "ok", "notices": " ".join(sorted(codes)) or None}
            rows.append({**origin, **row, **own})
            of_source[row["source"]] = codes
            self.splits[origin["split"]] += 1
        self.notices.update(code for codes in of_source.values() for code in codes)
        return rows


def require_record(tar: Address) -> ShardRecord:
    """The record of a finished tar.

    Raises:
        UserError: there is none.
    """
    record = read_record(tar)
    if record is None:
        raise UserError(f"{tar} vanished during the run; run the command again")
    return record
