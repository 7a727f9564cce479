"""The index of samples: an Arrow file that all processes of a machine map into their memory.

It has a row per sample, in the manifest's order: key, shard (a number of 1 to 4 bytes), identity, three
numbers of 4 bytes for each of the members that training reads, and a byte for each label. Strings are decoded
when they are read.
"""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Generic, TypeVar, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from common import manifest
from common.errors import UserError
from common.files import replacing
from common.layout import Layout
from common.members import FEATURE_MEMBERS
from common.tables import add_parquet, connect, quoted

Text = TypeVar("Text", bound=str | None)

BLOCK: Final = 512
"""Bytes of a tar's block; members begin at a multiple of it."""
MEMBERS: Final = ("jpg", "mask.png", "parts.npy", *FEATURE_MEMBERS)
KEEP_DAYS: Final = 7
"""How long the index of an older manifest stays after its last use."""


class Column(Sequence[Text], Generic[Text]):
    """Strings of an Arrow array, which are decoded when they are read."""

    def __init__(self, values: pa.Array) -> None:
        self._values = values

    @property
    def codes(self) -> NDArray[Any]:
        """The numbers of the strings of a dictionary-encoded array."""
        return self._values.indices.to_numpy()

    def __len__(self) -> int:
        return len(self._values)

    @overload
    def __getitem__(self, index: int) -> Text: ...
    @overload
    def __getitem__(self, index: slice) -> "Column[Text]": ...
    def __getitem__(self, index: int | slice) -> "Text | Column[Text]":
        if isinstance(index, slice):
            return Column(self._values[index])
        return self._values[int(index)].as_py()

    def __iter__(self) -> Iterator[Text]:
        return (value.as_py() for value in self._values)

    def take(self, indices: NDArray[np.int64]) -> "Column[Text]":
        """Only the strings at `indices`, in that order."""
        return Column(self._values.take(pa.array(indices)))


def read_index(layout: Layout, splits: Sequence[str], folder: Path | None) -> pa.Table:
    """The rows of some splits, in the manifest's order, with the names of the labels as ``attributes``.

    Args:
        layout: the shards and their manifest.
        splits: those that are indexed.
        folder: where the file is kept, which is made if it is missing; None: in memory only.

    Raises:
        UserError: there is no manifest.
    """
    if folder is None:
        return _query(layout, splits)
    name = hashlib.sha256(json.dumps([manifest_hash(layout), *splits]).encode()).hexdigest()[:32]
    file = folder / f"index-{name}.arrow"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock-index").open("a") as lock:
        with suppress(OSError):  # some network disks have no locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.is_file():
            _delete_old(folder)
            table = _query(layout, splits)
            with replacing(file) as temporary, pa.ipc.new_file(temporary, table.schema) as writer:
                writer.write_table(table)
    os.utime(file)
    return pa.ipc.open_file(pa.memory_map(str(file))).read_all()


def manifest_hash(layout: Layout) -> str:
    """SHA-256 of ``shards.parquet``, which identifies the shards that a checkpoint was trained on."""
    with layout.require_samples().open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]


def _query(layout: Layout, splits: Sequence[str]) -> pa.Table:
    """The rows of the manifest that belong to some splits, in one chunk, in the manifest's order."""
    path = layout.require_samples()
    listed, attributes = manifest.column_names(path)
    stored = [name for name in MEMBERS if f"{name}.offset" in listed or name not in FEATURE_MEMBERS]
    needed = [f"{name}.{what}" for name in stored for what in manifest.MEMBER_COLUMNS]
    if missing := [name for name in ("key", "shard", "split", "identity", *needed) if name not in listed]:
        raise UserError(
            f"{path} has no column {missing[0]}; it is of another version, run pipeline.parse again"
        )
    members = [
        f'[coalesce("{name}.offset", 0) // {BLOCK}, coalesce("{name}.size", 0), coalesce("{name}.crc32", 0)]'
        f'::UINTEGER[3] AS "{name}"'
        for name in stored
    ]
    labels = ", ".join(f"coalesce({quoted(name)}, -1)" for name in attributes)
    if labels:
        members.append(f"[{labels}]::TINYINT[{len(attributes)}] AS labels")
    with connect() as database:
        add_parquet(database, "samples", path)
        database.execute("SET arrow_large_buffer_size = true")  # more than 2 GB of keys
        database.execute("CREATE TEMP TABLE chosen AS SELECT unnest(?::VARCHAR[]) AS split", [list(splits)])
        database.execute("""
            CREATE TYPE shard_name AS ENUM (
                SELECT DISTINCT shard FROM samples SEMI JOIN chosen USING (split) ORDER BY shard
            )
        """)
        table = database.sql(f"""
            SELECT key, shard::shard_name AS shard, identity, {", ".join(members)}
            FROM samples WHERE split IN (FROM chosen)
        """).to_arrow_table()
    return table.combine_chunks().replace_schema_metadata({"attributes": "\n".join(attributes)})


def _delete_old(folder: Path) -> None:
    for file in folder.glob("index-*.arrow"):
        if time.time() - file.stat().st_mtime > KEEP_DAYS * 86400:
            file.unlink(missing_ok=True)
