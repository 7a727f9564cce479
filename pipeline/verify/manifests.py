"""The manifests against each other and against the folder, by queries over the three tables."""

from typing import Final

import duckdb
import pyarrow as pa

from common import manifest, tables
from common.errors import UserError
from common.layout import SPLITS, Layout
from common.members import FEATURE_MEMBERS
from common.tables import Database, quoted
from pipeline.verify.findings import EXAMPLES, Findings

SAMPLED: Final = "SELECT source FROM samples"
REFUSED: Final = "SELECT source FROM quarantine"
UNACCOUNTED: Final = (
    "SELECT source FROM source ANTI JOIN samples USING (source) ANTI JOIN quarantine USING (source)"
)
REPEATED: Final = "SELECT {0} FROM {1} GROUP BY {0} HAVING count(*) > 1"
IN_TWO_SPLITS: Final = (
    "SELECT {0} FROM samples WHERE {0} IS NOT NULL GROUP BY {0} HAVING count(DISTINCT split) > 1"
)

# Check, problem, and a query for those that have it.
QUERIES: Final = (
    ("sources", "in more than one row of source.parquet", REPEATED.format("source", "source")),
    ("sources", "neither a sample nor quarantined", UNACCOUNTED),
    ("sources", "not in source.parquet", f"({SAMPLED} UNION {REFUSED}) EXCEPT SELECT source FROM source"),
    ("sources", "both a sample and quarantined", f"{SAMPLED} INTERSECT {REFUSED}"),
    ("sources", "quarantined without a reason", f"{REFUSED} WHERE reason IS NULL"),
    ("keys", "in more than one row", REPEATED.format("key", "samples")),
    ("splits", "in more than one split", IN_TWO_SPLITS.format("key")),
    ("splits", "in more than one split", IN_TWO_SPLITS.format("source")),
    (
        "splits",
        "in a shard or a split of an unknown name",
        f"SELECT key FROM samples WHERE coalesce(split NOT IN {SPLITS} OR NOT regexp_full_match("
        f"shard, '[^/]+/({'|'.join(SPLITS)})-[0-9]+[.]tar'), true)",
    ),
    ("identities", "in more than one split", IN_TWO_SPLITS.format("identity")),
    ("missing-tars", "no such file", "SELECT shard FROM named WHERE shard IS NOT NULL EXCEPT FROM tars"),
    ("extra-tars", "in no manifest", "FROM tars EXCEPT FROM named"),
)

JOINED: Final = """
CREATE TABLE joined AS
WITH others AS (SELECT COLUMNS('^(key|shard|(jpg|mask.png|parts.npy)[.].*)$') FROM other_samples),
    origins AS (SELECT source, any_value(sha256) AS sha256 FROM source GROUP BY source)
SELECT samples.*, sha256, CASE WHEN others.key IS NOT NULL THEN others END AS other
FROM samples LEFT JOIN others USING (key) LEFT JOIN origins USING (source)
ORDER BY samples.shard, samples."mask.png.offset"
"""


def open_manifests(database: Database, layout: Layout, findings: Findings) -> manifest.Manifest | None:
    """Make the manifests the tables ``source``, ``samples`` and ``quarantine`` of a database.

    Returns:
        ``shards.parquet`` without its rows; None and a finding if one is missing, unreadable or too narrow.
    """
    read: dict[str, manifest.Manifest] = {}
    for name, path, fields in (
        ("source", layout.source, manifest.SOURCE_FIELDS),
        ("samples", layout.samples, manifest.SAMPLE_FIELDS),
        ("quarantine", layout.quarantine, manifest.QUARANTINE_FIELDS),
    ):
        try:
            read[name] = manifest.read(path, [])
            tables.add_parquet(database, f"{name}_file", path)
            if name == "samples":
                columns = read[name].columns
                fields = manifest.sample_fields(each for each in FEATURE_MEMBERS if f"{each}.size" in columns)
            expected = manifest.with_attributes(fields, read[name].attributes)
            tables.create_table(database, name, expected)
            selected = ", ".join(map(quoted, expected.names))
            database.execute(f"INSERT INTO {name} SELECT {selected} FROM {name}_file")
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


def check_manifests(
    database: Database, samples: manifest.Manifest, layout: Layout, findings: Findings
) -> list[str]:
    """Sources, keys, splits, identities and the tars in the folder, by the tables of `open_manifests`.

    Returns:
        The names of the tars that are both in the manifests and in the folder.
    """
    dataset = samples.metadata["dataset"]
    tars = [f"{dataset}/{path.name}" for path in (layout.shards / dataset).glob("*.tar")]
    database.execute("CREATE TABLE tars AS SELECT unnest($1::VARCHAR[]) AS shard", [tars])
    database.execute("CREATE VIEW named AS SELECT shard FROM source UNION SELECT shard FROM samples")
    columns = map(quoted, ("shard", "split", "identity", *samples.attributes))
    differs = " OR ".join(f"samples.{name} IS DISTINCT FROM source.{name}" for name in columns)
    differing = f"SELECT samples.key FROM samples JOIN source USING (source) WHERE {differs}"
    rows_differ = ("source-rows", "differs from its row in source.parquet", differing)
    for check, problem, query in (*QUERIES, rows_differ):
        rows = database.execute(
            f"SELECT name, count(*) OVER () FROM ({query}) AS wrong(name) ORDER BY name LIMIT {EXAMPLES}"
        ).fetchall()
        findings.add(check, [f"{name}: {problem}" for name, _ in rows], rows[0][1] if rows else 0)
    present = database.execute("FROM tars SEMI JOIN named USING (shard) ORDER BY shard")
    return [name for (name,) in present.fetchall()]


def join_manifests(database: Database, other: Layout | None) -> dict[str, int]:
    """Make the table ``joined``: samples by shard, with ``sha256`` of the source and the row in ``other``.

    Returns:
        How many samples only one of the two sets has, and how many have different faces.

    Raises:
        UserError: the other set has no finished shards.
    """
    if other is None:
        database.execute("CREATE VIEW other_samples AS FROM samples LIMIT 0")
    else:
        tables.add_parquet(database, "other_samples", other.require_samples())
    database.execute(JOINED)
    counts = database.sql("""
        SELECT count(*) FILTER (other IS NULL) AS only_first,
            (SELECT count(*) FROM other_samples) - count(other) AS only_second,
            count(*) FILTER (joined."jpg.crc32" <> other."jpg.crc32") AS other_faces
        FROM joined
    """)
    return dict(counts.to_arrow_table().to_pylist()[0])
