"""Queries over Parquet files: DuckDB in this process, in bounded memory.

Every query whose result is written has an ORDER BY over a key of its rows, so that equal rows give equal
bytes whatever the number of threads. Text is ordered by its UTF-8 bytes, as `sorted` orders strings.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, TypeAlias

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import UserError
from common.files import replacing
from common.storage import Address, TransientError, is_local, store_errors

# Rows of a row group of the files written here, and rows that are in memory at a time.
ROW_GROUP: Final = 1 << 16
Database: TypeAlias = duckdb.DuckDBPyConnection


@contextmanager
def connect() -> Iterator[Database]:
    """A new, empty database, which is deleted at the end; it never uses the network.

    Raises:
        UserError: a file that a query reads is damaged, or the disk for temporary files is full.
    """
    with TemporaryDirectory(prefix="tables-", ignore_cleanup_errors=True) as folder:
        settings: dict[str, Any] = {
            "memory_limit": "300MB",  # what does not fit goes to files in the folder for temporary ones
            "threads": min(4, len(os.sched_getaffinity(0))),  # each holds rows in memory
            "temp_directory": folder,
            "preserve_insertion_order": True,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        # A database in a file is compressed, one in memory is not.
        with duckdb.connect(f"{folder}/database", config=settings) as database:
            try:
                yield database
            except (duckdb.IOException, duckdb.OutOfMemoryException, duckdb.InvalidInputException) as error:
                raise UserError(
                    f"the tables cannot be queried ({error}); if the disk is full, name a folder on another "
                    "with TMPDIR; if a file is damaged, delete it and run the pipeline"
                ) from error


def add_parquet(database: Database, name: str, path: Address) -> pa.Schema:
    """Make a Parquet file a view that queries can read, and return its schema with its metadata.

    A file in a store is copied to this machine first.

    Raises:
        FileNotFoundError: there is no such file.
        TransientError: the store does not answer.
        UserError: it is not a readable Parquet file.
    """
    folder = Path(database.execute("SELECT current_setting('temp_directory')").fetchall()[0][0])
    # A link, because DuckDB expands brackets and asterisks in names.
    file = folder / f"{name}.parquet"
    file.unlink(missing_ok=True)
    if isinstance(path, Path):
        file.symlink_to(path.absolute())
    else:
        with store_errors(path):
            path.fs.get_file(path.path, str(file))
    try:
        schema = pq.read_schema(file)
        database.execute(f"CREATE OR REPLACE VIEW {name} AS FROM read_parquet('{file}')")
    except FileNotFoundError:
        raise
    except (pa.ArrowException, duckdb.Error, OSError) as error:
        if "No space left" in str(error):
            raise UserError(f"{folder}: the disk is full; name a folder on another with TMPDIR") from error
        if not is_local(path):  # perhaps a page of a proxy
            raise TransientError(f"{path}: the store answers with no readable table ({error})") from error
        raise UserError(f"{path}: no readable Parquet file ({error}); delete it and make it again") from error
    return schema


def batches(
    database: Database, query: str, parameters: Any = None, rows: int = ROW_GROUP
) -> Iterator[pa.RecordBatch]:
    """The result of a query, so many rows at a time; the last batch may have fewer.

    The query runs while the batches are read; other queries need a `cursor()` of the database meanwhile.
    """
    # Unlike that of `execute`, the result of `sql` is not in memory as a whole, and keeps its order.
    return _sized(database.sql(query, params=parameters).to_arrow_reader(rows), rows)


def write_batches(
    path: Address, pieces: Iterable[pa.RecordBatch], schema: pa.Schema, metadata: Mapping[str, str]
) -> int:
    """Write rows, in any number of pieces, into a file; gives their number.

    Completely or not at all, and equal rows give equal bytes. `schema` has the names and types of the
    columns, others are left out; and `metadata` strings about the whole table.
    """
    schema, rows = schema.with_metadata(dict(metadata)), 0
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for batch in _sized(pieces, ROW_GROUP):
            writer.write_table(pa.Table.from_batches([batch]).select(schema.names).cast(schema))
            rows += batch.num_rows
    return rows


def create_table(database: Database, name: str, schema: pa.Schema) -> None:
    """Make a table without rows, with the columns of `schema`, in the place of one of this name."""
    database.register("empty", schema.empty_table())
    database.execute(f"CREATE OR REPLACE TABLE {name} AS FROM empty")
    database.unregister("empty")


def insert_batches(database: Database, table: str, batches: Iterable[pa.RecordBatch]) -> None:
    """Append rows to a table of the database, which has the columns of the batches by name."""
    for batch in batches:
        database.register("batch", pa.Table.from_batches([batch]))
        database.execute(f"INSERT INTO {table} BY NAME FROM batch")
        database.unregister("batch")


def quoted(name: str) -> str:
    """A column's name as an identifier of SQL."""
    return '"' + name.replace('"', '""') + '"'


def _sized(pieces: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of so many, so that the sizes do not depend on threads."""
    waiting: list[pa.RecordBatch] = []
    count = 0
    for piece in pieces:
        while piece.num_rows + count >= rows:
            waiting.append(piece.slice(0, rows - count))
            yield pa.concat_batches(waiting)
            piece, waiting, count = piece.slice(rows - count), [], 0
        if piece.num_rows:
            waiting.append(piece)
            count += piece.num_rows
    if waiting:
        yield pa.concat_batches(waiting)
