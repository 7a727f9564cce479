"""What was hashed before: Parquet files of paths, stamps, sizes and SHA-256, one written by each task.

A record counts as long as the stamp of its file is the same, which is its size and its modification time or
entity tag. Records only save reading: all of them may be deleted.
"""

import hashlib
from collections.abc import Callable, Collection, Sequence
from functools import partial
from io import BytesIO
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from common.files import check_guard, remove_partials, replacing
from common.retry import retried
from common.storage import Address, is_local, list_folder, read_bytes, store_errors
from common.tables import Database, batches, insert_batches
from pipeline.runner.prefetch import THREADS, read_ahead

COLUMNS: Final = pa.schema(
    [("source", pa.string()), ("stamp", pa.string()), ("bytes", pa.int64()), ("sha256", pa.binary(32))]
)

PART: Final = 4096
"""Sources of one file, which an interrupted run loses at most of each task."""

LOCAL_THREADS: Final = 2
"""Files of records that are read at a time, unless they lie in a store."""

Stamps = Callable[[Sequence[str]], list[str | None]]
"""The stamps of paths as they are now."""


def records_folder(manifests: Address, root: Address) -> Address:
    """Where the records of files below `root` lie, beside the manifests of an output."""
    name = hashlib.sha256(str(root.absolute()).encode()).hexdigest()[:16]
    return (manifests / "records-ingest" / name).absolute()


def write_part(folder: Address, part: pa.Table) -> None:
    """Write records, with the columns `COLUMNS`, into a file that is named after them."""
    digest = hashlib.sha256()
    for name in ("source", "stamp"):
        digest.update("\n".join(part[name].to_pylist()).encode())
    with replacing(folder / f"{digest.hexdigest()[:16]}.parquet") as temporary:
        pq.write_table(part, temporary, compression="zstd")


def find_unchanged(
    database: Database, folder: Address, stamps: Stamps, doubted: Collection[str], retry_minutes: float
) -> None:
    """Make the table ``unchanged``: number, SHA-256 and bytes of sources whose files have not changed.

    A number may come several times.

    Args:
        database: has the table ``listed``.
        folder: of the records, which need not exist.
        stamps: of the files as they are now.
        doubted: sources of which a record may be wrong; the files with their records are deleted.
        retry_minutes: of patience with the store of the records.
    """
    database.execute(
        "CREATE OR REPLACE TABLE records (source VARCHAR, stamp VARCHAR, bytes BIGINT, sha256 BLOB);"
        "CREATE OR REPLACE TABLE unchanged (number BIGINT, sha256 VARCHAR, bytes BIGINT)"
    )
    remove_partials(folder)
    names = sorted(retried(lambda: list_folder(folder), retry_minutes, "ingest"))

    def read(name: str) -> bytes:
        return retried(partial(read_bytes, folder / name), retry_minutes, "ingest")

    for name, content in read_ahead(read, names, LOCAL_THREADS if is_local(folder) else THREADS):
        try:
            part = pq.read_table(BytesIO(content.result())).select(COLUMNS.names).cast(COLUMNS)
        except (pa.ArrowException, KeyError):
            continue  # damaged, or of another version: what it says is hashed again
        if doubted and pc.any(pc.is_in(part["source"], pa.array(doubted, pa.string()))).as_py():
            retried(partial(_remove, folder / name), retry_minutes, "ingest")
        else:
            insert_batches(database, "records", part.to_batches())
    recorded = """
        SELECT number, source, stamp, bytes, lower(hex(sha256)) AS sha256
        FROM listed JOIN records USING (source) WHERE reason IS NULL
    """
    for batch in batches(database.cursor(), recorded, rows=PART):
        current = pa.array(stamps(batch["source"].to_pylist()), pa.string())
        same = batch.filter(pc.fill_null(pc.equal(batch["stamp"], current), False))
        insert_batches(database, "unchanged", [same.select(["number", "sha256", "bytes"])])
    database.execute("DROP TABLE records")


def _remove(file: Address) -> None:
    check_guard()
    with store_errors(file):
        file.unlink(missing_ok=True)
