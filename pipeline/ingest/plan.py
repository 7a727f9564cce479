"""From a listing to the rows of ``source.parquet``: drop duplicates, draw splits, plan shards.

All of it is queries over tables with a row per source, which ``number`` identifies, in the order of paths:

- ``listed``: the sources, see `pipeline.ingest.listing.store_listing`;
- ``contents``: their bytes, or why they cannot be used, see `pipeline.ingest.hashing.hash_sources`;
- ``refused``: reason and detail of those that cannot be used;
- ``planned``: key, split, shard and notices of the others.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from common import manifest
from common.errors import UserError
from common.layout import SPLITS
from common.members import FEATURE_MEMBERS
from common.pipeline_config import Ingest
from common.storage import Address
from common.tables import Database, batches, quoted, write_batches
from pipeline.ingest.labels import check_no_split


def plan(database: Database, attributes: tuple[str, ...], settings: Ingest, dataset: str) -> None:
    """Make the tables ``refused`` and ``planned``: what becomes of every source.

    A photo that an earlier plan has put into a shard stays in it, whatever else changes, and new photos go
    into new shards, so that finished shards remain what they are. A shard is named after the split for which
    it was planned; when labels move a photo to another split, its row says so and its shard stays.

    The database has the tables ``listed``, ``contents``, and ``earlier`` (key, shard) of an earlier plan.

    Raises:
        UserError: the data set's own split has a person on two sides, a label is named like a column of the
            manifests, or two files share a key.
    """
    check_names(attributes)
    _refuse_duplicates(database)
    _draw_splits(database, len(attributes), settings)
    _plan_shards(database, settings, dataset)


def check_names(attributes: tuple[str, ...]) -> None:
    """Check that labels can be columns of the manifests and of predictions.

    Raises:
        UserError: one is named like another column, or is not printable.
    """
    own = {*manifest.SOURCE_FIELDS.names, *manifest.sample_fields(FEATURE_MEMBERS).names}
    own.update(manifest.PREDICTION_COLUMNS)
    for number, name in enumerate(attributes):
        if not name.isprintable() or not name:
            raise UserError(
                f"a label cannot be named {name!r}, with a line break or the like; rename the column"
            )
        check_no_split(name, "the labels")
        if name.lower() in own:
            raise UserError(
                f"a label cannot be named {name!r}, the manifests or predictions use it; rename the column"
            )
        if name.lower() in {other.lower() for other in attributes[:number]}:
            raise UserError(f"two labels are named {name!r}, but for capitals; rename one of the columns")


def _refuse_duplicates(database: Database) -> None:
    """Make the table ``refused``. Of sources with the same bytes the first is kept."""
    database.execute("""
        CREATE TABLE duplicates AS
        WITH hashed AS (
            SELECT number, sha256, left(sha256, 16) AS key FROM contents WHERE reason IS NULL
        ), repeated AS (
            SELECT key, min(number) AS kept, min(sha256) <> max(sha256) AS differ
            FROM hashed GROUP BY key HAVING count(*) > 1
        )
        SELECT number, kept, key, differ FROM hashed JOIN repeated USING (key) WHERE number <> kept
    """)
    if shared := database.execute("SELECT min(key) FROM duplicates WHERE differ").fetchall()[0][0]:
        raise UserError(f"two different files share the key {shared}; ingest them as two data sets")
    database.execute("""
        CREATE TABLE refused AS
        WITH repeated AS (
            SELECT duplicates.number, kept.source, coalesce(list_bool_or(
                [pair[1] <> pair[2] FOR pair IN list_zip(own.labels, kept.labels)]), false) AS contrary
            FROM duplicates
            JOIN listed AS own ON own.number = duplicates.number
            JOIN listed AS kept ON kept.number = duplicates.kept
        )
        SELECT number, reason, detail FROM contents WHERE reason IS NOT NULL
        UNION ALL SELECT number, 'duplicate', 'same bytes as ' || source FROM repeated WHERE NOT contrary
        UNION ALL SELECT number, 'contrary-labels',
            'same bytes as ' || source || ', but labels that contradict its own' FROM repeated WHERE contrary
    """)


def _draw_splits(database: Database, labels: int, settings: Ingest) -> None:
    """Make the table ``usable`` with the split of every usable source; no person is in two.

    Where the data set has splits of its own, they are used. Otherwise each labelled source is drawn, by
    person, or by content where the person is unknown, so that its split depends on no other source. All
    others are ``unlabelled``, unless their person is in a split.
    """
    [(official,)] = database.execute("SELECT count(split) > 0 FROM listed").fetchall()
    validation = settings.test_fraction + settings.val_fraction
    database.execute(f"""
        CREATE TABLE usable AS
        WITH known AS (
            SELECT number, left(sha256, 16) AS key, identity, split, list_count(labels) AS known_labels,
                sha256('{settings.seed}:' || coalesce(identity, sha256)) AS drawn,
                CAST('0x' || left(drawn, 16) AS UBIGINT) / pow(2, 64) AS position
            FROM listed JOIN contents USING (number) ANTI JOIN refused USING (number)
        )
        SELECT number, key, identity,
            CASE WHEN known_labels = {labels} OR {labels} = 0 THEN NULL
                WHEN known_labels IS NULL THEN 'no-label' ELSE 'unknown-label' END AS notices,
            CASE WHEN {official} THEN split
                WHEN known_labels IS NULL OR known_labels = 0 THEN NULL
                WHEN position < {settings.test_fraction!r}::DOUBLE THEN 'test'
                WHEN position < {validation!r}::DOUBLE THEN 'val' ELSE 'train' END AS split
        FROM known
    """)
    database.execute("""
        CREATE TABLE people AS
        SELECT identity, arg_min(split, number) AS split, min(number) AS first FROM usable
        WHERE identity IS NOT NULL AND split IS NOT NULL GROUP BY identity
    """)
    divided = database.execute("""
        SELECT identity, one.source, people.split, other.source, usable.split
        FROM usable JOIN people USING (identity)
        JOIN listed AS one ON one.number = people.first
        JOIN listed AS other ON other.number = usable.number
        WHERE usable.split <> people.split ORDER BY usable.number LIMIT 1
    """).fetchone()
    if divided:
        person, first, split, second, other = divided
        raise UserError(
            f"{person} is in two splits, {first} in {split} and {second} in {other}; fix the split, or leave "
            "it out to have one drawn by identity"
        )


def _plan_shards(database: Database, settings: Ingest, dataset: str) -> None:
    """Make the table ``planned``: new sources go into new shards, after the last number of each split."""
    database.execute("""
        CREATE TABLE planned AS
        SELECT number, usable.key, notices, coalesce(usable.split, people.split, 'unlabelled') AS split, shard
        FROM usable LEFT JOIN people USING (identity) LEFT JOIN earlier ON earlier.key = usable.key
    """)
    [(samples,)] = database.execute("SELECT count(*) FROM planned").fetchall()
    size = shard_size(samples, settings)
    database.execute("CREATE TABLE placed (number BIGINT, shard VARCHAR)")
    for split in SPLITS:
        new = database.execute(
            "SELECT number::INTEGER AS number FROM planned WHERE split = ? AND shard IS NULL ORDER BY number",
            [split],
        ).fetchnumpy()["number"]
        shuffled = np.random.default_rng(settings.seed).permutation(np.asarray(new, np.int32))
        positions = np.arange(len(shuffled), dtype=np.int32)
        database.register("shuffled", pa.table({"number": shuffled, "position": positions}))
        database.execute(
            """
            INSERT INTO placed
            SELECT number, format('{}/{}-{:06d}.tar', $dataset, $split, first + position // $size)
            FROM shuffled, (
                SELECT coalesce(max(CAST(regexp_extract(shard, '([0-9]+)[.]tar$', 1) AS BIGINT)) + 1, 0)
                    AS first
                FROM earlier WHERE starts_with(shard, $dataset || '/' || $split || '-')
            )
            """,
            {"dataset": dataset, "split": split, "size": size},
        )
        database.unregister("shuffled")


def shard_size(samples: int, settings: Ingest) -> int:
    """Samples per new shard: so few that a small set has 64 shards, each a task, but not below 16 samples."""
    return min(settings.shard_size, max(16, -(-samples // 64)))


def refuse_losses(
    database: Database,
    finished: tuple[Sequence[str], Sequence[str]],
    folder: Address,
    root: str,
    earlier_root: str,
) -> None:
    """Refuse a plan without photos of which there are samples in finished shards.

    `finished` are the names of the finished shards in `folder`, and the sources that were refused when they
    were made. The database has the plan, and the view ``earlier_sources`` of the earlier one; if its root is
    another, equal paths are other photos.

    Raises:
        UserError: there are such photos; says how many.
    """
    for name, values in zip(("finished", "without_sample"), finished, strict=True):
        database.register(name, pa.table({"name": pa.array(values, pa.string())}))
    same_paths = "ANTI JOIN (SELECT source FROM listed SEMI JOIN planned USING (number)) USING (source)"
    [(photos, lost, example)] = database.execute(f"""
        WITH samples AS (
            SELECT source, key FROM earlier_sources
            SEMI JOIN finished ON shard = finished.name
            ANTI JOIN without_sample ON source = without_sample.name
        )
        SELECT (SELECT count(*) FROM samples), count(*), min(source)
        FROM samples ANTI JOIN planned USING (key) {same_paths if earlier_root == root else ""}
    """).fetchall()
    if lost:
        raise UserError(
            f"{lost:,} of {photos:,} photos of the finished shards in {folder}, made from "
            f"{earlier_root}, are not in the input {root}, such as {example}; --prune deletes their "
            "faces, another --output keeps them"
        )


def write_plan(
    database: Database, path: Address, attributes: tuple[str, ...], metadata: Mapping[str, str]
) -> int:
    """Write ``source.parquet``, and return the number of sources."""
    labels = "".join(f", labels[{number}] AS {quoted(name)}" for number, name in enumerate(attributes, 1))
    query = f"""
        SELECT source, key, coalesce(planned.shard, placed.shard) AS shard, planned.split, identity, sha256,
            bytes, refused.reason, refused.detail, notices {labels}
        FROM listed JOIN contents USING (number)
        LEFT JOIN refused USING (number) LEFT JOIN planned USING (number) LEFT JOIN placed USING (number)
        ORDER BY listed.number
    """
    schema = manifest.with_attributes(manifest.SOURCE_FIELDS, attributes)
    metadata = {**metadata, "attributes": "\n".join(attributes)}
    return write_batches(path, batches(database, query), schema, metadata)


def summary(database: Database, sources: int) -> list[str]:
    """A line in total, and one for each reason and notice."""
    splits, reasons, notices = (
        dict(database.execute(f"SELECT {name}, count(*) FROM {table} GROUP BY ALL ORDER BY ALL").fetchall())
        for name, table in (("split", "planned"), ("reason", "refused"), ("notices", "planned"))
    )
    notices.pop(None, None)
    kept = ", ".join(f"{splits[split]:,} {split}" for split in SPLITS if split in splits) or "none usable"
    lines = [f"ingest: {sources:,} sources, {sum(reasons.values()):,} refused; {kept}"]
    lines += [f"  refused: {reason:<31}{count:>10,}" for reason, count in reasons.items()]
    lines += [f"  kept with a notice: {notice:<20}{count:>10,}" for notice, count in notices.items()]
    return lines
