"""The index of samples: one row of fixed size per sample, of which a machine holds one copy.

A row has the key (8 bytes if keys are 16 hex digits), the number of the shard (4), the identity (1 if none is
known), and three numbers of 4 bytes for each of the members that training reads: 49 bytes without features,
and one more for each label. The file is an NPY array in the cache's folder that all processes of the machine
map into their memory; a JSON file beside it names the shards and the labels.
"""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Generic, TypeVar, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from common import manifest
from common.files import replacing, write_text
from common.layout import Layout
from common.shards import FEATURE_MEMBERS

Text = TypeVar("Text", bound=str | None)

BLOCK: Final = 512
"""Bytes of a tar's block; members begin at a multiple of it."""
MEMBERS: Final = ("jpg", "mask.png", "parts.npy", *FEATURE_MEMBERS)
KEEP_DAYS: Final = 7
"""How long the index of an older manifest stays after its last use."""


class Column(Sequence[Text], Generic[Text]):
    """Strings that are decoded when they are read.

    Attributes:
        codes: one entry a string.
    """

    def __init__(self, codes: NDArray[Any], decode: Callable[[Any], Text]) -> None:
        self.codes, self._decode = codes, decode

    def __len__(self) -> int:
        return len(self.codes)

    @overload
    def __getitem__(self, index: int) -> Text: ...
    @overload
    def __getitem__(self, index: slice) -> "Column[Text]": ...
    def __getitem__(self, index: int | slice) -> "Text | Column[Text]":
        if isinstance(index, slice):
            return Column(self.codes[index], self._decode)
        return self._decode(self.codes[index])

    def __iter__(self) -> Iterator[Text]:
        return map(self._decode, self.codes)

    def take(self, indices: NDArray[np.int64]) -> "Column[Text]":
        """Only the strings at `indices`, in that order."""
        return Column(self.codes[indices], self._decode)


class Index:
    """The rows of some splits, in the manifest's order.

    Attributes:
        rows: a structured array with the fields ``key``, ``shard``, ``identity``, ``attributes``, and one for
            each stored member: uint32 (3,) of offset in `BLOCK`s, size in bytes, and CRC-32 (0: not known).
        shards: names by number, sorted.
        attributes: names of the labels.
    """

    def __init__(self, rows: NDArray[Any], shards: Sequence[str], attributes: tuple[str, ...]) -> None:
        self.rows, self.shards, self.attributes = rows, shards, attributes

    def columns(self) -> tuple[Column[str], Column[str], Column[str | None]]:
        """Keys, shards and identities."""
        rows, names = self.rows, self.shards
        hexadecimal = rows.dtype["key"].kind == "V"
        return (
            Column(rows["key"], (lambda code: bytes(code).hex()) if hexadecimal else _text),
            Column(rows["shard"], lambda code: names[code]),
            Column(rows["identity"], lambda code: _text(code) or None),
        )


def read_index(layout: Layout, splits: Sequence[str], folder: Path | None) -> Index:
    """The index of some splits.

    Args:
        layout: the shards and their manifest.
        splits: those that are indexed.
        folder: where the file is kept, which is made if it is missing; None: in memory only.

    Raises:
        UserError: there is no manifest.
    """
    if folder is None:
        source = _Source(layout, splits)
        rows = np.zeros(source.count, source.dtype)
        source.fill(rows)
        return Index(rows, source.shards, source.attributes)
    name = hashlib.sha256(json.dumps([manifest_hash(layout), *splits]).encode()).hexdigest()[:32]
    file = folder / f"index-{name}.npy"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock-index").open("a") as lock:
        with suppress(OSError):  # some network disks have no locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.is_file():
            _delete_old(folder)
            _write(_Source(layout, splits), file)
    os.utime(file)
    shards, attributes = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    return Index(np.load(file, mmap_mode="r"), shards, tuple(attributes))


def manifest_hash(layout: Layout) -> str:
    """SHA-256 of ``shards.parquet``, which identifies the shards that a checkpoint was trained on."""
    with layout.require_samples().open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]


def _write(source: "_Source", file: Path) -> None:
    write_text(file.with_suffix(".json"), json.dumps([source.shards, source.attributes]))
    with replacing(file) as temporary:
        rows = np.lib.format.open_memmap(temporary, "w+", source.dtype, (source.count,))
        source.fill(rows)
        rows.flush()


class _Source:
    """The rows of the manifest that belong to some splits, read a batch at a time.

    Attributes:
        count: how many there are.
        dtype: of a row of the index.
        shards: their names, sorted.
        attributes: names of the labels.
    """

    def __init__(self, layout: Layout, splits: Sequence[str]) -> None:
        self._path, self._splits = layout.require_samples(), pa.array(splits, pa.string())
        listed, self.attributes = manifest.column_names(self._path)
        self._members = [name for name in MEMBERS if f"{name}.offset" in listed]
        self._extents = [
            (member, number, f"{member}.{column}")
            for member in self._members
            for number, column in enumerate(manifest.MEMBER_COLUMNS)
            if f"{member}.{column}" in listed  # old manifests hold no checksums
        ]
        self.count, shards, hexadecimal, widths = 0, set[str](), True, [1, 1]
        for batch in self._batches(["key", "identity", "shard"]):
            self.count += batch.num_rows
            shards.update(batch["shard"].unique().to_pylist())
            hexadecimal &= pc.all(
                pc.match_substring_regex(batch["key"], "^[0-9a-f]{16}$"), min_count=0
            ).as_py()
            for number, name in enumerate(("key", "identity")):
                widths[number] = max(widths[number], pc.max(pc.binary_length(batch[name])).as_py() or 0)
        self.shards: Sequence[str] = sorted(shards)
        self.dtype = np.dtype(
            [
                ("key", "V8" if hexadecimal else f"S{widths[0]}"),
                ("shard", "<i4"),
                ("identity", f"S{widths[1]}"),
                *((name, "<u4", (3,)) for name in self._members),
                ("attributes", "i1", (len(self.attributes),)),
            ]
        )

    def fill(self, rows: NDArray[Any]) -> None:
        """Write all rows."""
        names = pa.array(self.shards, pa.string())
        columns = ["key", "identity", "shard", *(column for *_, column in self._extents), *self.attributes]
        end = 0
        for batch in self._batches(columns):
            start, end = end, end + batch.num_rows
            part = rows[start:end]
            part["key"] = _key_codes(batch["key"].to_pylist(), rows.dtype["key"])
            part["shard"] = pc.index_in(batch["shard"], names)
            part["identity"] = [(identity or "").encode() for identity in batch["identity"].to_pylist()]
            for member, number, column in self._extents:
                values = np.asarray(batch[column].fill_null(0))
                part[member][:, number] = values // BLOCK if column.endswith(".offset") else values
            for number, name in enumerate(self.attributes):
                part["attributes"][:, number] = batch[name].fill_null(-1)

    def _batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        for batch in manifest.batches(self._path, ["split", *columns]):
            yield batch.filter(pc.is_in(batch["split"], self._splits))


def _key_codes(keys: list[str], dtype: np.dtype[Any]) -> NDArray[Any]:
    if dtype.kind == "V":
        return np.frombuffer(bytes.fromhex("".join(keys)), dtype)
    return np.array([key.encode() for key in keys], dtype)


def _text(code: bytes) -> str:
    return code.decode()


def _delete_old(folder: Path) -> None:
    for file in folder.glob("index-*.npy"):
        if time.time() - file.stat().st_mtime > KEEP_DAYS * 86400:
            file.unlink(missing_ok=True)
            file.with_suffix(".json").unlink(missing_ok=True)
