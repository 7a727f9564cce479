"""The manifests against each other and against the folder, by queries over the three tables."""

import re
from typing import Final

import duckdb
import pyarrow as pa

from common import manifest, tables
from common.errors import UserError
from common.layout import SPLITS, Layout
from common.shards import FEATURE_MEMBERS
from common.tables import Database, quoted
from pipeline.verify.findings import EXAMPLES, Findings

UNACCOUNTED: Final = (
    "SELECT source FROM source ANTI JOIN samples USING (source) ANTI JOIN quarantine USING (source)"
)
REPEATED: Final = "SELECT {0} FROM {1} GROUP BY {0} HAVING count(*) > 1"
IN_TWO_SPLITS: Final = (
    "SELECT {0} FROM samples WHERE {0} IS NOT NULL GROUP BY {0} HAVING count(DISTINCT split) > 1"
)

QUERIES: Final = (
    ("sources", "in more than one row of source.parquet", REPEATED.format("source", "source")),
    ("sources", "neither a sample nor quarantined", UNACCOUNTED),
    (
        "sources",
        "not in source.parquet",
        "(SELECT source FROM samples UNION SELECT source FROM quarantine) EXCEPT SELECT source FROM source",
    ),
    (
        "sources",
        "both a sample and quarantined",
        "SELECT source FROM samples INTERSECT SELECT source FROM quarantine",
    ),
    ("sources", "quarantined without a reason", "SELECT source FROM quarantine WHERE reason IS NULL"),
    ("keys", "in more than one row", REPEATED.format("key", "samples")),
    ("splits", "in more than one split", IN_TWO_SPLITS.format("key")),
    ("splits", "in more than one split", IN_TWO_SPLITS.format("source")),
    ("identities", "in more than one split", IN_TWO_SPLITS.format("identity")),
)
"""Check, problem, and a query for those that have it."""


def open_manifests(database: Database, layout: Layout, findings: Findings) -> manifest.Manifest | None:
    """Make the manifests the tables ``source``, ``samples`` and ``quarantine`` of a database.

    Returns:
        ``shards.parquet`` without its rows; None and a finding if a manifest is missing, unreadable or lacks
        a column.
    """
    read: dict[str, manifest.Manifest] = {}
    for name, path, fields in (
        ("source", layout.source, manifest.SOURCE_FIELDS),
        ("samples", layout.samples, manifest.SAMPLE_FIELDS),
        ("quarantine", layout.quarantine, manifest.QUARANTINE_FIELDS),
    ):
        try:
            read[name] = manifest.read(path, [])
            schema = tables.add_parquet(database, f"{name}_file", path)
            if name == "samples":
                fields = manifest.sample_fields(
                    each for each in FEATURE_MEMBERS if f"{each}.size" in schema.names
                )
            empty = manifest.with_attributes(fields, read[name].attributes).empty_table()
            columns = ", ".join(map(quoted, empty.column_names))
            database.register("empty", empty)
            database.execute(f"CREATE TABLE {name} AS FROM empty")
            database.execute(f"INSERT INTO {name} SELECT {columns} FROM {name}_file")
        except (UserError, duckdb.Error, pa.ArrowException, ValueError) as error:
            findings.add("manifests", f"{path.name}: {str(error).splitlines()[0]}")
    if findings:
        return None
    source, samples = read["source"], read["samples"]
    if source.attributes != samples.attributes or not source.metadata.get("dataset"):
        findings.add("manifests", "the manifests are of different data sets, or do not name theirs")
        return None
    numerics = samples.metadata.get(manifest.NUMERICS, "").split("\n")
    if len(numerics) > 1:
        findings.notes.append(f"mixed: the shards were parsed on {'; '.join(numerics)}")
    return samples


def check_manifests(database: Database, samples: manifest.Manifest, findings: Findings) -> None:
    """Sources, keys, splits and identities over the whole set, by the tables of `open_manifests`."""
    dataset = re.escape(samples.metadata["dataset"]).replace("'", "''")
    shards = f"{dataset}/({'|'.join(SPLITS)})-[0-9]+[.]tar"
    columns = map(quoted, ("shard", "split", "identity", *samples.attributes))
    differs = " OR ".join(f"samples.{name} IS DISTINCT FROM source.{name}" for name in columns)
    queries = (
        *QUERIES,
        (
            "source-rows",
            "differs from its row in source.parquet",
            f"SELECT samples.key FROM samples JOIN source USING (source) WHERE {differs}",
        ),
        (
            "splits",
            "in a shard or a split of an unknown name",
            f"SELECT key FROM samples WHERE split IS NULL OR split NOT IN {SPLITS} OR shard IS NULL "
            f"OR NOT regexp_full_match(shard, '{shards}')",
        ),
    )
    for check, problem, query in queries:
        rows = database.execute(
            f"SELECT name, count(*) OVER () FROM ({query}) AS wrong(name) ORDER BY name LIMIT {EXAMPLES}"
        ).fetchall()
        findings.add(check, [f"{name}: {problem}" for name, _ in rows], rows[0][1] if rows else 0)


def check_tars(database: Database, layout: Layout, dataset: str, findings: Findings) -> list[str]:
    """The folder's tars against those that the manifests name; returns the names of those that are there."""
    query = "SELECT shard FROM source UNION SELECT shard FROM samples"
    named = {name for (name,) in database.execute(query).fetchall()} - {None}
    present = {f"{dataset}/{path.name}" for path in (layout.shards / dataset).glob("*.tar")}
    missing, extra = sorted(named - present), sorted(present - named)
    findings.add("missing-tars", [f"{name}: no such file" for name in missing], len(missing))
    findings.add("extra-tars", [f"{name}: in no manifest" for name in extra], len(extra))
    return sorted(present & named)
