"""The samples that the manifest lists, by split, with their labels and where their bytes lie.

They are read from an index, an Arrow file that all processes of a machine map into their memory. It has a row
per sample, in the order of the manifest: key, shard (a number of 1 to 4 bytes), identity, three numbers of 4
bytes for each of the members that training reads, and a byte for each label. Strings are decoded last.
"""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from common import manifest
from common.errors import UserError
from common.files import replacing
from common.layout import Layout
from common.members import FEATURE_MEMBERS
from common.shards import Extent
from common.storage import Address
from common.tables import add_parquet, batches, connect, quoted

Text = TypeVar("Text", bound=str | None)
BLOCK: Final = 512  # Bytes of a tar's block; members begin at a multiple of it
MEMBERS: Final = ("jpg", "mask.png", "parts.npy", *FEATURE_MEMBERS)


class Column(Sequence[Text], Generic[Text]):
    """Strings of an Arrow array, which are decoded when they are read."""

    def __init__(self, values: pa.Array) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> Text:  # type: ignore[override]
        return self.values[int(index)].as_py()

    def __iter__(self) -> Iterator[Text]:
        return (value.as_py() for value in self.values)


def taken(strings: Sequence[Text], indices: NDArray[np.int64]) -> Sequence[Text]:
    """Only the strings at `indices`, in that order."""
    if isinstance(strings, Column):
        return Column(strings.values.take(pa.array(indices)))
    return [strings[i] for i in indices]


def read_index(layout: Layout, splits: Sequence[str], folder: Path | None) -> pa.Table:
    """The rows of some splits, in the manifest's order, with the names of the labels as ``attributes``.

    The file is kept in `folder`, made if missing; None: in memory only. For errors see `read_samples`.
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
            for older in folder.glob("index-*.arrow"):
                # Of a manifest that was last used a week ago.
                if time.time() - older.stat().st_mtime > 7 * 86400:
                    older.unlink(missing_ok=True)
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
    described = manifest.read(path, [])
    listed, attributes = described.columns, described.attributes
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


@dataclass(frozen=True)
class Samples:
    """The samples of some splits, as the manifest lists them."""

    root: Address  # folder or fsspec address of the shards
    keys: Sequence[str]  # sample keys
    shards: Sequence[str]  # shard path of each sample, below `root`
    # By member name, without ``json``, and with features only where they are stored, uint32 (N, 3) of offset
    # in blocks of 512 bytes, size in bytes, and CRC-32, which is 0 where it is not known.
    extents: dict[str, NDArray[np.uint32]]
    attribute_names: tuple[str, ...]  # names of the label columns
    attributes: NDArray[np.int8]  # int8 (N, A), 0 or 1, -1 where unknown
    identities: Sequence[str | None]  # identity of each sample, or None where it is unknown

    def __len__(self) -> int:
        return len(self.keys)

    def extent(self, member: str, index: int) -> Extent:
        """Where the bytes of a member of one sample lie in its shard."""
        blocks, size, _ = self.extents[member][index].tolist()
        return Extent(blocks * BLOCK, size)

    def take(self, indices: NDArray[np.int64]) -> "Samples":
        """Only the samples at `indices`, in that order."""
        return replace(
            self,
            keys=taken(self.keys, indices),
            shards=taken(self.shards, indices),
            extents={name: extent[indices] for name, extent in self.extents.items()},
            attributes=self.attributes[indices],
            identities=taken(self.identities, indices),
        )

    def labelled(self) -> "Samples":
        """Only the samples with at least one known attribute."""
        return self.take(np.flatnonzero((self.attributes >= 0).any(axis=1)))


def read_samples(layout: Layout, splits: Sequence[str], folder: Path | None = None) -> Samples:
    """The samples of the given splits; processes that name one `folder` share an index in it.

    Raises:
        UserError: there is no manifest.
    """
    table = read_index(layout, splits, folder)
    names = tuple(filter(None, table.schema.metadata[b"attributes"].decode().split("\n")))
    columns = {name: table[name].combine_chunks() for name in table.column_names}

    def matrix(name: str, width: int) -> NDArray[Any]:
        return columns[name].flatten().to_numpy().reshape(-1, width)

    return Samples(
        root=layout.shards,
        keys=Column[str](columns["key"]),
        shards=Column[str](columns["shard"]),
        extents={name: matrix(name, 3) for name in MEMBERS if name in columns},
        attribute_names=names,
        attributes=matrix("labels", len(names)) if names else np.zeros((table.num_rows, 0), np.int8),
        identities=Column[str | None](columns["identity"]),
    )


def pixels_hash(layout: Layout) -> str:
    """SHA-256 of what stage 1 reads: which samples it has, for training or validation, and their bytes.

    Labels do not count, and so not the difference between ``train`` and ``unlabelled``.
    """
    path, digest = layout.require_samples(), hashlib.sha256()
    described = manifest.read(path, [])
    names = [name for name in described.columns if name not in described.attributes]
    members = [name for name in names if name.endswith((".size", ".crc32")) and not name.startswith("json.")]
    columns = ["key", "shard", *members]
    fields = ", ".join(f"coalesce({quoted(name)}::VARCHAR, '')" for name in columns)
    lines = f"""
        SELECT concat_ws(' ', {fields}, split = 'val') AS line
        FROM samples WHERE split <> 'test' ORDER BY shard, "jpg.offset", key
    """
    with connect() as database:
        add_parquet(database, "samples", path)
        for batch in batches(database, lines):
            digest.update("\n".join([*batch["line"].to_pylist(), ""]).encode())
    return digest.hexdigest()
