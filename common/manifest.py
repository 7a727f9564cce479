"""The three manifests: every input, every sample, and everything that was refused.

``source.parquet`` has a row per input, ``shards.parquet`` a row per sample and
``quarantine.parquet`` a row (source, reason, detail) per input that did not
become one; sources = sources with a sample + quarantined. ``notices`` are codes of what
is worth knowing about an input that was kept, sorted and separated by spaces, or null.
Attributes are nullable int8 columns (0, 1, null) named as in the data set.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from common.errors import UserError
from common.files import replacing
from common.shards import MEMBERS
from common.storage import Address, TransientError, is_file, store_errors

SOURCE_FIELDS: Final = pa.schema(
    [
        ("source", pa.string()),
        ("key", pa.string()),
        ("shard", pa.string()),
        ("split", pa.string()),
        ("identity", pa.string()),
        ("sha256", pa.string()),
        ("bytes", pa.int64()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("notices", pa.string()),
    ]
)

MEMBER_COLUMNS: Final = ("offset", "size", "crc32")
"""Columns of each member of a sample, named ``<member>.<column>``."""

SAMPLE_FIELDS: Final = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.string()),
        ("split", pa.string()),
        ("status", pa.string()),
        ("notices", pa.string()),
        ("source", pa.string()),
        ("identity", pa.string()),
        ("box_score", pa.float32()),
        ("confidence", pa.float32()),
        *((f"{name}.{what}", pa.int64()) for name in MEMBERS for what in MEMBER_COLUMNS),
    ]
)

QUARANTINE_FIELDS: Final = pa.schema(
    [("source", pa.string()), ("reason", pa.string()), ("detail", pa.string())]
)


def sample_fields(features: Iterable[str]) -> pa.Schema:
    """`SAMPLE_FIELDS`, and the columns of those `FEATURE_MEMBERS` that the samples have."""
    columns = (pa.field(f"{name}.{what}", pa.int64()) for name in features for what in MEMBER_COLUMNS)
    return pa.schema([*SAMPLE_FIELDS, *columns])


NUMERICS: Final = "numerics"
"""Key of the metadata of ``shards.parquet`` that lists, one a line, what the parser computed in."""

PREDICTION_COLUMNS: Final = {
    "photo": pa.string(),
    "face": pa.int64(),
    "reason": pa.string(),
    "detail": pa.string(),
    "left": pa.float64(),
    "top": pa.float64(),
    "right": pa.float64(),
    "bottom": pa.float64(),
    "score": pa.float64(),
    "present": pa.list_(pa.string()),
}
"""Columns of predictions before the probabilities, which have the attributes' names. ``face`` counts from 1,
``reason`` and ``detail`` say why a photo has no face, and the box is in pixels of the upright photo."""

BATCH_ROWS: Final = 1 << 16
"""Rows that `batches` and `write_pieces` hold in memory at a time."""


@dataclass(frozen=True)
class Manifest:
    """A manifest in memory.

    Attributes:
        table: one row per source or sample.
        attributes: names of the attribute columns, in the data set's order.
        metadata: strings about the whole manifest, such as the data set's name.
    """

    table: pa.Table
    attributes: tuple[str, ...]
    metadata: Mapping[str, str]

    def rows(self) -> list[dict[str, Any]]:
        """The rows as dictionaries."""
        return self.table.to_pylist()


def rows_by_shard(table: pa.Table, order_by: str = "mask.png.offset") -> Iterator[tuple[str, pa.Table]]:
    """(shard, its rows in the order of the tar, or of `order_by`), in the order of names.

    Rows without a shard are left out.

    Each table is a copy of its rows, because a slice of an Arrow table is pickled with the whole table.

    Args:
        table: with the columns ``shard`` and `order_by`.
        order_by: the column that orders the rows of a shard.
    """
    order = pc.sort_indices(table, sort_keys=[("shard", "ascending"), (order_by, "ascending")])
    runs = pc.run_end_encode(table["shard"].take(order).combine_chunks())
    start = 0
    for name, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
        if name is not None:
            yield name, table.take(order.slice(start, end - start))
        start = end


def counts(values: pa.ChunkedArray) -> Counter[str]:
    """How often each value of a column occurs; nulls are left out."""
    pairs = values.drop_null().value_counts()
    return Counter({pair["values"]: pair["counts"] for pair in pairs.to_pylist()})


def write(
    path: Address,
    fields: pa.Schema,
    rows: Iterable[Mapping[str, Any]],
    attributes: tuple[str, ...] = (),
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a manifest completely or not at all; equal rows give equal bytes.

    Args:
        path: the file to write.
        fields: one of the three schemas of this module, or `sample_fields`.
        rows: a mapping per row; missing values become null.
        attributes: names of the attribute columns to add.
        metadata: strings about the whole manifest.
    """
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=with_attributes(fields, attributes))
    write_table(path, table, attributes, metadata)


def with_attributes(fields: pa.Schema, attributes: tuple[str, ...]) -> pa.Schema:
    """One of the three schemas of this module with a column per attribute."""
    return pa.schema([*fields, *(pa.field(name, pa.int8()) for name in attributes)])


def write_table(
    path: Address, table: pa.Table, attributes: tuple[str, ...], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a manifest that is a table already, with the columns that `with_attributes` names."""
    metadata = {**(metadata or {}), "attributes": "\n".join(attributes)}
    with replacing(path) as temporary:
        pq.write_table(table.replace_schema_metadata(metadata), temporary, compression="zstd")


def write_pieces(
    path: Address,
    pieces: Iterable[pa.Table],
    attributes: tuple[str, ...],
    metadata: Mapping[str, str],
    last: Mapping[str, str],
) -> None:
    """Write a manifest from tables of one schema, of which at most `BATCH_ROWS` rows are kept in memory.

    Args:
        path: the file to write.
        pieces: at least one table, each small; an error in between leaves `path` as it was.
        attributes: names of the attribute columns, which the tables have already.
        metadata: strings about the whole manifest.
        last: further ones, read after the last piece.
    """
    metadata = {**metadata, "attributes": "\n".join(attributes)}
    pieces = iter(pieces)
    waiting = [next(pieces)]
    schema = waiting[0].schema.with_metadata(metadata)
    with (
        replacing(path) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        for piece in pieces:
            if sum(table.num_rows for table in waiting) + piece.num_rows > BATCH_ROWS:
                writer.write_table(pa.concat_tables(waiting).replace_schema_metadata(metadata))
                waiting = []
            waiting.append(piece)
        writer.write_table(pa.concat_tables(waiting).replace_schema_metadata(metadata))
        writer.add_key_value_metadata(dict(last))


def header(path: Address) -> Manifest:
    """The metadata of a manifest and its number of rows, with a table without columns; reads its footer alone.

    Raises:
        UserError: the file is missing or is not a manifest.
    """
    return read(path, [])


def read(path: Address, columns: list[str] | None = None) -> Manifest:
    """Read a manifest.

    Args:
        path: the file to read.
        columns: only these; all if None.

    Raises:
        UserError: the file is missing or is not a manifest.
    """
    if not is_file(path):
        raise UserError(f"{path} is missing; `python -m pipeline.parse --input FOLDER` makes it")
    try:
        with store_errors(path), path.open("rb") as stream:
            parquet = pq.ParquetFile(stream)
            table = parquet.read(columns=columns)
            stored = parquet.metadata.metadata or {}
    except TransientError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: no readable manifest ({error}); delete it and run the pipeline") from error
    metadata = {
        key.decode(): value.decode() for key, value in stored.items() if not key.startswith(b"ARROW:")
    }
    names = metadata.pop("attributes", "")
    return Manifest(table, tuple(names.split("\n")) if names else (), metadata)


def column_names(path: Address) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of all columns of a manifest, and of those that are attributes; reads its footer alone."""
    with path.open("rb") as stream:
        schema = pq.read_schema(stream)
    attributes = (schema.metadata or {}).get(b"attributes", b"").decode()
    return tuple(schema.names), tuple(attributes.split("\n")) if attributes else ()


def batches(path: Address, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """The rows of a manifest in their order, `BATCH_ROWS` at a time, so that any number fits into memory.

    Args:
        path: the file to read.
        columns: only these; at least one.
    """
    with path.open("rb") as stream:
        yield from pq.ParquetFile(stream).iter_batches(BATCH_ROWS, columns=columns)
