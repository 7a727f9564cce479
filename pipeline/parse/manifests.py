"""From the records of all shards to ``shards.parquet`` and ``quarantine.parquet``."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from common import manifest
from common.alignment.recipe import METADATA_KEY, RECIPE_FILE, Recipe
from common.errors import UserError
from common.layout import SPLITS, Layout
from common.shards import FEATURE_MEMBERS
from common.storage import Address, is_file
from pipeline.parse.shard import ParseTask
from pipeline.runner.quarantine import table
from pipeline.runner.shard_record import ShardRecord, read_record


def write_manifests(source: manifest.Manifest, tasks: Sequence[ParseTask], layout: Layout) -> tuple[int, int]:
    """Write both manifests and print what was kept and refused.

    Returns:
        The number of samples, and of quarantined inputs.

    Raises:
        UserError: a record is missing.
        RuntimeError: a source is neither in a sample nor quarantined, or both; a defect here.
    """
    metadata = {"dataset": source.metadata["dataset"]}
    recipe = layout.aligned / metadata["dataset"] / RECIPE_FILE
    bystanders = False
    if is_file(recipe):
        metadata[METADATA_KEY] = recipe.read_text(encoding="utf-8").strip()
        bystanders = Recipe.read(metadata[METADATA_KEY], str(recipe)).align.bystander_labels
    samples, refused, numerics = _merge_records(source, tasks, bystanders)
    kept = {row["source"] for row in samples}
    if len(kept) + len(refused) != source.table.num_rows:
        raise RuntimeError(
            f"{source.table.num_rows} sources, but {len(kept)} with samples and {len(refused)} quarantined"
        )
    if numerics:
        metadata[manifest.NUMERICS] = "\n".join(sorted(numerics))
    fields = manifest.sample_fields(
        name for name in FEATURE_MEMBERS if any(f"{name}.size" in row for row in samples)
    )
    columns = {*fields.names, *source.attributes}
    rows = ({name: row.get(name) for name in columns} for row in samples)
    manifest.write(layout.samples, fields, rows, source.attributes, metadata)
    manifest.write(layout.quarantine, manifest.QUARANTINE_FIELDS, refused, metadata=metadata)
    _print_summary(samples, refused)
    return len(samples), len(refused)


def _merge_records(
    source: manifest.Manifest, tasks: Sequence[ParseTask], bystander_labels: bool
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], set[str]]:
    """The rows of all samples in the order of their shards, those of all refused sources by name, and
    what the parser computed in.
    """
    planned = {row["source"]: row for row in source.rows() if row["key"]}
    samples: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = [
        {name: row[name] for name in ("source", "reason", "detail")} for row in source.rows() if row["reason"]
    ]
    numerics: set[str] = set()
    for task in tasks:
        finished, aligned = require_record(task.tar), require_record(task.aligned)
        refused.extend([*aligned.quarantined, *finished.quarantined])
        numerics.add(finished.numerics)
        notices = {row["key"]: row["notices"] for row in aligned.samples}
        for row in finished.samples:
            origin = planned[row["source"]]
            codes = sorted({*(origin["notices"] or "").split(), *notices[row["key"]]})
            # A bystander is not whom the labels of the photo describe.
            if row["key"] != origin["key"] and not bystander_labels:
                origin = {**origin, **dict.fromkeys((*source.attributes, "identity"))}
            samples.append({**origin, **row, "status": "ok", "notices": " ".join(codes) or None})
    return samples, sorted(refused, key=lambda row: row["source"]), numerics - {""}


def _print_summary(samples: list[dict[str, Any]], refused: list[dict[str, Any]]) -> None:
    splits = Counter(row["split"] for row in samples)
    reasons = Counter(row["reason"] for row in refused)
    by_source = {row["source"]: row["notices"] or "" for row in samples}
    notices = Counter(code for codes in by_source.values() for code in codes.split())
    print(table({split: splits[split] for split in SPLITS if splits[split]}, reasons, notices))


def require_record(tar: Address) -> ShardRecord:
    """The record of a finished tar.

    Raises:
        UserError: there is none.
    """
    record = read_record(tar)
    if record is None:
        raise UserError(f"{tar} vanished during the run; run the command again")
    return record
