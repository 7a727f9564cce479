"""An adapter's listing of an input: its sources, their labels, and those that cannot be used."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import pyarrow as pa

from common.errors import UserError
from common.tables import Database, create_table, insert_batches
from pipeline.ingest.labels import FALSE, Label

COLUMNS: Final = pa.schema(
    {
        **dict.fromkeys(("source", "split", "identity", "reason", "detail"), pa.string()),
        "labels": pa.list_(pa.int8()),
    }
)


@dataclass(frozen=True, slots=True)
class Source:
    """One input as its data set describes it."""

    path: str  # relative to the input folder, with forward slashes; ``shard.tar::member`` in a tar
    split: str | None = None  # the data set's own ``train``, ``val`` or ``test``; None if it has none
    identity: str | None = None  # the person in it, or None
    # 0, 1 or None (unknown) per attribute name; None if there is no label
    attributes: tuple[Label, ...] | None = None
    # (reason, detail) if the adapter already knows that it cannot be used
    refused: tuple[str, str] | None = None


@dataclass(frozen=True)
class Listing:
    """All inputs of a data set."""

    sources: Iterable[Source]  # in any order; may be read once only
    attributes: tuple[str, ...]  # names of the labels, in the data set's order
    aligned: bool  # whether the images are aligned faces already
    remarks: tuple[str, ...] = ()  # sentences about what was found and not used
    # whether the labels of the sources are raw, see `pipeline.ingest.labels`, whose meaning depends on those
    # of all sources
    raw: bool = False
    # where each source stands in its file, in their order, if two may be the same
    rows: Callable[[], Iterator[str]] | None = None


def store_listing(database: Database, table: str, listing: Listing) -> None:
    """Make a table of the sources, sorted by path: ``number`` from 0 in this order, and `COLUMNS`.

    ``labels`` has a number per attribute, and is null where no label is known.

    Raises:
        UserError: as the adapter raises it, or two rows of a label file mean one source.
    """
    create_table(database, "unsorted", COLUMNS)
    insert_batches(database, "unsorted", _batches(listing.sources))
    [(signed,)] = database.execute("SELECT bool_or(-1 IN labels) FROM unsorted").fetchall()
    raw = f"""list_transform(labels, lambda label: CASE label
        WHEN 0 THEN {"NULL" if signed else 0} WHEN -1 THEN 0 WHEN {FALSE} THEN 0 ELSE label END)"""
    meaning = raw if listing.raw else "labels"
    database.execute(f"""
        CREATE OR REPLACE TABLE {table} AS
        SELECT row_number() OVER () - 1 AS number, source, split, identity, reason, detail, row,
            CASE WHEN {not listing.raw} OR list_count(labels) > 0 THEN labels END AS labels
        FROM (SELECT * REPLACE ({meaning} AS labels), rowid AS row FROM unsorted ORDER BY source, rowid)
    """)
    database.execute("DROP TABLE unsorted")
    if listing.rows:
        _check_once(database, table, listing.rows)


def join_labels(
    database: Database, attributes: Sequence[str], of_rows: Sequence[str], own: str, detail: str
) -> tuple[str, ...]:
    """Join the table ``label_rows``, made like ``listed``, to ``listed`` by path; gives all labels' names.

    A row takes the place of its source's labels of the same names; a source without a row stays as it is, and
    a row without a source is refused as ``label-without-image``, with this `detail`. `attributes` and
    `of_rows` are the names of the labels in both tables, and `own` is the path of the rows' file.
    """
    names = tuple(dict.fromkeys((*attributes, *of_rows)))
    of_photo, of_row = (
        {name: number for number, name in enumerate(each, 1)} for each in (attributes, of_rows)
    )
    cells = [  # lists count from 1, and their element 0 is null
        f"CASE WHEN row.source IS NOT NULL AND {name in of_row} THEN row.labels[{of_row.get(name, 0)}] "
        f"ELSE photo.labels[{of_photo.get(name, 0)}] END"
        for name in names
    ]
    database.execute(
        f"""
        CREATE OR REPLACE TABLE listed AS
        WITH joined AS (
            SELECT coalesce(photo.source, row.source) AS source,
                coalesce(row.split, photo.split) AS split,
                coalesce(row.identity, photo.identity) AS identity,
                CASE WHEN photo.source IS NULL THEN coalesce(row.reason, 'label-without-image')
                    ELSE photo.reason END AS reason,
                CASE WHEN photo.source IS NULL THEN coalesce(row.detail, $detail)
                    ELSE photo.detail END AS detail,
                CAST([{", ".join(cells)}] AS TINYINT[]) AS labels
            FROM (FROM listed WHERE source <> $own) AS photo
            FULL JOIN label_rows AS row ON row.source = photo.source
        )
        SELECT row_number() OVER () - 1 AS number, source, split, identity, reason, detail,
            CASE WHEN list_count(labels) > 0 THEN labels END AS labels
        FROM (FROM joined ORDER BY source)
        """,
        {"own": own, "detail": detail},
    )
    return names


def _check_once(database: Database, table: str, rows: Callable[[], Iterator[str]]) -> None:
    repeated = database.execute(f"""
        SELECT source, before, row
        FROM (
            SELECT source, row, lag(row) OVER () AS before, lag(source) OVER () AS previous FROM {table}
        )
        WHERE source = previous ORDER BY row LIMIT 1
    """).fetchone()
    if repeated:
        source, *numbers = repeated
        first, second = (next(islice(rows(), number, None)) for number in numbers)
        raise UserError(f"{second}: a second row for {source}, after {first}; delete one")


def _batches(sources: Iterable[Source]) -> Iterator[pa.RecordBatch]:
    cells = (
        (each.path, each.split, each.identity, *(each.refused or (None, None)), each.attributes)
        for each in sources
    )
    while some := list(islice(cells, 1 << 14)):  # sources that are Python objects at a time
        columns = zip(*some, strict=True)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, COLUMNS, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=COLUMNS)
