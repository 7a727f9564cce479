"""The listing of an input and the plan of a listing, as lists in memory."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa

from common import manifest
from common.input_files import Tree
from common.pipeline_config import Ingest
from common.storage import Address
from common.tables import connect, insert_batches
from pipeline.ingest.adapters import open_tree, store_sources
from pipeline.ingest.listing import Listing, Source, store_listing
from pipeline.ingest.plan import plan, write_plan


def read_listing(path: Address, form: str = "auto", labels: Address | None = None) -> Listing:
    """The sources of an input in their order, and what else is known of it."""
    with connect() as database:
        tree: Tree = open_tree(path)
        listing = store_sources(database, tree, form, labels)
        columns = "source, split, identity, labels, reason, detail"
        rows = database.execute(f"SELECT {columns} FROM listed ORDER BY number").fetchall()
    sources = [
        Source(source, split, identity, labels and tuple(labels), reason and (reason, detail))
        for source, split, identity, labels, reason, detail in rows
    ]
    return replace(listing, sources=sources)


def plan_rows(
    listing: Listing, hashes: Sequence[str], settings: Ingest, name: str = "d"
) -> list[dict[str, Any]]:
    """The rows of ``source.parquet`` of sources whose bytes have these hashes."""
    with connect() as database, TemporaryDirectory() as folder:
        store_listing(database, "listed", listing)
        database.execute("CREATE TABLE earlier (key VARCHAR, shard VARCHAR)")
        database.execute(
            "CREATE TABLE contents (number BIGINT, sha256 VARCHAR, bytes BIGINT, reason VARCHAR, detail VARCHAR)"
        )
        contents = {"number": range(len(hashes)), "sha256": hashes, "bytes": [1] * len(hashes)}
        insert_batches(database, "contents", [pa.RecordBatch.from_pydict(contents)])
        plan(database, listing.attributes, settings, name)
        write_plan(database, Path(folder, "source.parquet"), listing.attributes, {})
        return manifest.read(Path(folder, "source.parquet")).rows()
