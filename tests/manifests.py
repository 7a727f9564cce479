"""Manifests that tests write."""

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from common.manifest import with_attributes
from common.storage import Address


def write(
    path: Address,
    fields: pa.Schema,
    rows: Iterable[Mapping[str, Any]],
    attributes: tuple[str, ...] = (),
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write rows with the columns `fields` and one per attribute; what a row lacks is null."""
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=with_attributes(fields, attributes))
    write_table(path, table, attributes, metadata)


def write_table(
    path: Address, table: pa.Table, attributes: tuple[str, ...], metadata: Mapping[str, str] | None = None
) -> None:
    metadata = {**(metadata or {}), "attributes": "\n".join(attributes)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        pq.write_table(table.replace_schema_metadata(metadata), file, compression="zstd")
