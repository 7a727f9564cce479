"""The shard format: four to six members per sample in a plain tar that any tool can open.

A sample is ``KEY.jpg`` (aligned RGB face), ``KEY.mask.png`` (class index mask), ``KEY.parts.npy`` (per-cell
class counts) and ``KEY.json`` (metadata), of ``parse.parser: bisenet`` also ``KEY.pooled.npy``, with
``parse.features_from`` ``KEY.embedding.npy``, whose fields are the features of each network. `common.members`
turns them into bytes and back. This module writes tars whose bytes depend on nothing but the samples, and
reads single members by their offset.
"""

import os
import re
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import webdataset

from common.errors import UserError
from common.files import replacing
from common.members import FEATURE_MEMBERS, MEMBERS, BrokenSample
from common.storage import Address, store_errors

# Keys have neither dots, at which WebDataset splits names, nor slashes.
KEY_PATTERN: Final = re.compile(r"[0-9A-Za-z_-]{1,128}")


def check_key(key: str) -> str:
    """Return `key`; a `ValueError` if it has a character other than letters, digits, ``_`` and ``-``."""
    if not KEY_PATTERN.fullmatch(key):
        raise ValueError(f"{key!r} is not a sample key: only letters, digits, '_' and '-' are allowed")
    return key


@dataclass(frozen=True)
class Extent:
    """The position of a member in its tar: byte offset of its content, and its size."""

    offset: int
    size: int


class ShardWriter(ExitStack):
    """Writes one shard, which appears completely or not at all.

    The tar grows under a temporary name and is synced and renamed when the context ends without an error;
    otherwise it is removed. Time stamps, owners and modes are constant, so equal samples give equal bytes.
    """

    def __init__(self, path: Address) -> None:
        super().__init__()
        self._path = path

    def __enter__(self) -> Self:
        stream = self.enter_context(self.enter_context(replacing(self._path)).open("wb"))
        self._tar = webdataset.TarWriter(
            stream, encoder=False, mtime=0, user="root", group="root", mode=0o644, compress=False
        )
        self.callback(self._tar.close)
        return self

    def add(self, key: str, members: Mapping[str, bytes]) -> dict[str, Extent]:
        """Append a sample and return the extents of its members by name."""
        check_key(key)
        extents = {}
        for name in (name for name in (*MEMBERS, *FEATURE_MEMBERS) if name in members):
            self._tar.write({"__key__": key, name: members[name]})
            size = len(members[name])
            blocks = -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            extents[name] = Extent(offset=self._tar.tarstream.offset - blocks, size=size)
        return extents


def read_shard(path: Address) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield (key, member bytes by name) of each sample of a shard, in tar order.

    Raises:
        BrokenSample: a name is not KEY.MEMBER, or the format has no such member.
        TransientError: the store does not answer.
    """
    key, members = "", dict[str, bytes]()
    with store_errors(path), path.open("rb") as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
        for entry in tar:
            name, _, member = entry.name.partition(".")
            known = KEY_PATTERN.fullmatch(name) and member in (*MEMBERS, *FEATURE_MEMBERS)
            if not known or not entry.isfile():
                raise BrokenSample(f"{path}: {entry.name!r} is not a member of a sample")
            if name != key and members:
                yield key, members
                members = {}
            key = name
            content = tar.extractfile(entry)
            assert content is not None  # isfile() was checked
            members[member] = content.read()
    if members:
        yield key, members


def extent_of(row: Mapping[str, Any], member: str) -> Extent:
    """Where a member lies in its tar, by the columns of a row of ``shards.parquet``."""
    return Extent(row[f"{member}.offset"], row[f"{member}.size"])


def shard_path(root: Address, shard: str) -> Address:
    """Where the tar lies that a manifest names.

    Raises:
        UserError: it would lie outside of the folder `root`.
    """
    if shard.startswith("/") or ".." in shard.split("/"):
        raise UserError(
            f"{root}: the manifest names a shard outside of this folder, {shard!r}; it was not read"
        )
    return root / shard


def read_member(root: Address, shard: str, extent: Extent) -> bytes:
    """The bytes of one extent of a shard, by one read of exactly these bytes; it may hold several members.

    An fsspec address is asked for the range alone: an opened remote file would read ahead by megabytes.

    Raises:
        BrokenSample: the tar ends before the extent does.
        OSError: the tar cannot be read.
        UserError: as for `shard_path`.
    """
    path = shard_path(root, shard)
    if isinstance(path, Path):
        with path.open("rb") as stream:
            return read_extent(stream.fileno(), extent, shard)
    data: bytes = path.fs.cat_file(path.path, start=extent.offset, end=extent.offset + extent.size)
    return _complete(data, extent, shard)


def read_sample(root: Address, row: Mapping[str, Any]) -> dict[str, bytes]:
    """The members of a sample without its features, by name; one read, as they lie side by side in their tar.

    `row` is of ``shards.parquet``: ``shard``, and offset and size of each of `MEMBERS`.

    Raises:
        BrokenSample: the tar ends before the sample does.
        OSError: the tar cannot be read.
    """
    extents = {name: extent_of(row, name) for name in MEMBERS}
    start = min(extent.offset for extent in extents.values())
    end = max(extent.offset + extent.size for extent in extents.values())
    data = read_member(root, row["shard"], Extent(start, end - start))
    return {name: data[extent.offset - start :][: extent.size] for name, extent in extents.items()}


def read_extent(descriptor: int, extent: Extent, where: str) -> bytes:
    """The bytes of one member of an open file, without moving its position.

    Raises:
        BrokenSample: the file ends before the member does; `where` names it.
    """
    return _complete(os.pread(descriptor, extent.size, extent.offset), extent, where)


def _complete(data: bytes, extent: Extent, where: str) -> bytes:
    if len(data) != extent.size:
        raise BrokenSample(f"{where}: ends at {len(data)} of {extent.size} bytes; run the pipeline again")
    return data
