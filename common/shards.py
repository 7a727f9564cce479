"""The shard format: four to six members per sample in a plain tar that any tool can open.

A sample is ``KEY.jpg`` (aligned RGB face), ``KEY.mask.png`` (class index mask),
``KEY.parts.npy`` (per-cell class counts) and ``KEY.json`` (metadata), of
``parse.parser: bisenet`` also ``KEY.pooled.npy``, with ``parse.features_from``
``KEY.embedding.npy``, whose fields are the features of each network. This module turns samples into bytes and
back, writes tars whose bytes depend on nothing but the samples, and reads single members by
their offset. Only these member types are ever
decoded, never with pickle.
"""

import io
import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import cv2
import numpy as np
import webdataset
from numpy.typing import NDArray

from common.classes import NUM_CLASSES
from common.errors import UserError
from common.files import replacing
from common.storage import Address, store_errors

MEMBERS: Final = ("jpg", "mask.png", "parts.npy", "json")
"""The members of a finished sample, in the order in which a tar holds them."""

FEATURE_MEMBERS: Final = ("pooled.npy", "embedding.npy")
"""Members that follow if there are features: the parser's own, and those of further networks."""

FEATURE_CHANNELS: Final = 64
"""Channels of the parser's features of each class, in ``pooled.npy``."""

OF_CLASSES: Final = ".classes"
"""Ends the name of a field of ``embedding.npy`` that has features of each class, (19, K)."""

JPEG_QUALITY: Final = 97
"""Of stored faces, of 100."""

KEY_PATTERN: Final = re.compile(r"[0-9A-Za-z_-]{1,128}")
"""Keys have neither dots, at which WebDataset splits names, nor slashes."""


class BrokenSample(ValueError):
    """A member that does not decode to what the format promises."""


def check_key(key: str) -> str:
    """Return `key` if the format allows it.

    Raises:
        ValueError: the key has a character other than letters, digits, ``_`` and ``-``.
    """
    if not KEY_PATTERN.fullmatch(key):
        raise ValueError(f"{key!r} is not a sample key: only letters, digits, '_' and '-' are allowed")
    return key


def encode_face(face: NDArray[np.uint8]) -> bytes:
    """JPEG bytes of an RGB face, uint8 (S, S, 3), at `JPEG_QUALITY`."""
    ok, encoded = cv2.imencode(
        ".jpg", cv2.cvtColor(face, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    )
    if not ok:
        raise BrokenSample(f"OpenCV could not encode a face of shape {face.shape}")
    return encoded.tobytes()


def decode_face(data: bytes) -> NDArray[np.uint8]:
    """An RGB face, uint8 (H, W, 3), from JPEG bytes.

    Raises:
        BrokenSample: the bytes are not an image.
    """
    image = _decode(data, cv2.IMREAD_COLOR)
    if image is None:
        raise BrokenSample(f"{len(data)} bytes that are not a JPEG image")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def _decode(data: bytes, mode: int) -> NDArray[Any] | None:
    """The image that OpenCV decodes, or None if it cannot, for example because of the declared size."""
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), mode) if data else None
    except cv2.error:
        return None


def encode_mask(mask: NDArray[np.uint8]) -> bytes:
    """PNG bytes of a mask, uint8 (S, S), classes 0..18."""
    if mask.dtype != np.uint8 or mask.ndim != 2 or mask.max(initial=0) >= NUM_CLASSES:
        raise BrokenSample(f"a mask must be uint8 (S, S) with classes below {NUM_CLASSES}")
    # Of zlib's strategies run lengths make the smallest masks, in half the time of the default.
    ok, encoded = cv2.imencode(".png", mask, [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE])
    if not ok:
        raise BrokenSample(f"OpenCV could not encode a mask of shape {mask.shape}")
    return encoded.tobytes()


def decode_mask(data: bytes) -> NDArray[np.uint8]:
    """A class mask, uint8 (H, W), from PNG bytes.

    Raises:
        BrokenSample: the bytes are not an 8-bit single-channel image, or hold another class.
    """
    mask = _decode(data, cv2.IMREAD_UNCHANGED)
    if mask is None or mask.ndim != 2 or mask.dtype != np.uint8:
        raise BrokenSample(f"{len(data)} bytes that are not an 8-bit single-channel PNG mask")
    if mask.max(initial=0) >= NUM_CLASSES:
        raise BrokenSample(f"mask value {mask.max()} is not a class (0..{NUM_CLASSES - 1})")
    return mask.astype(np.uint8, copy=False)


def encode_array(array: NDArray[Any]) -> bytes:
    """NPY bytes of class counts per cell, uint16 (G, G, 19), or of features, see `feature_fields`."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def decode_cell_counts(data: bytes) -> NDArray[np.uint16]:
    """Per-cell class counts, uint16 (G, G, 19), from NPY bytes.

    Raises:
        BrokenSample: the bytes are not such an array; a pickled one is refused too.
    """
    counts = _array(data)
    if counts.dtype != np.uint16 or counts.ndim != 3 or counts.shape[2] != NUM_CLASSES:
        raise BrokenSample(
            f"class counts must be uint16 (G, G, {NUM_CLASSES}), not {counts.dtype} {counts.shape}"
        )
    return counts


def decode_features(data: bytes) -> NDArray[np.float16]:
    """The features of a face, float16 (D,), from NPY bytes, one field after the other.

    Raises:
        BrokenSample: as for `feature_fields`, or they hold a number that is not finite.
    """
    features = np.concatenate([values.ravel() for values in feature_fields(data).values()])
    if not np.isfinite(features).all():
        raise BrokenSample("features that are not finite")
    return features


def feature_fields(data: bytes) -> dict[str, NDArray[np.float16]]:
    """The features of a face by field of an array of shape (), or under "" those of float16 (D,).

    Raises:
        BrokenSample: the bytes are neither, or a field is not float16.
    """
    array = _array(data)
    fields = {name: array[name] for name in array.dtype.names} if array.dtype.names else {"": array}
    if array.ndim != (not array.dtype.names) or any(each.dtype != np.float16 for each in fields.values()):
        raise BrokenSample(f"features must be float16 (D,) or fields, not {array.dtype} {array.shape}")
    return fields


def _array(data: bytes) -> NDArray[Any]:
    try:
        return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except (ValueError, TypeError, EOFError, OSError, OverflowError, MemoryError) as error:
        raise BrokenSample(f"{len(data)} bytes that are not an NPY array: {error}") from error


def encode_metadata(metadata: Mapping[str, Any]) -> bytes:
    """Canonical JSON bytes: sorted keys, UTF-8, one trailing newline."""
    return (json.dumps(metadata, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def decode_metadata(data: bytes) -> dict[str, Any]:
    """The metadata of a sample, from JSON bytes.

    Raises:
        BrokenSample: the bytes are not a JSON object.
    """
    try:
        metadata = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BrokenSample(f"{len(data)} bytes that are not JSON: {error}") from error
    if not isinstance(metadata, dict):
        raise BrokenSample(f"a JSON object was expected, not {type(metadata).__name__}")
    return metadata


@dataclass(frozen=True)
class Extent:
    """The position of a member in its tar: byte offset of its content, and its size."""

    offset: int
    size: int


class ShardWriter:
    """Writes one shard, which appears completely or not at all.

    The tar grows under a temporary name and is synced and renamed when the
    context ends without an error; otherwise it is removed. Time stamps, owners
    and modes are constant, so equal samples give equal bytes.

    Example::

        with ShardWriter(Path("train-000000.tar")) as writer:
            extents = writer.add("k1", {"jpg": face_bytes, "json": metadata_bytes})
    """

    def __init__(self, path: Address) -> None:
        self._path = path
        self._context = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as context:
            stream = context.enter_context(context.enter_context(replacing(self._path)).open("wb"))
            self._tar = webdataset.TarWriter(
                stream, encoder=False, mtime=0, user="root", group="root", mode=0o644, compress=False
            )
            context.callback(self._tar.close)
            self._context = context.pop_all()
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

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)


def read_shard(path: Address) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield (key, member bytes by name) of each sample of a shard, in tar order.

    Raises:
        BrokenSample: a name is not KEY.MEMBER, or the format has no such member.
        TransientError: the store does not answer.
    """
    key, members = "", dict[str, bytes]()
    with (
        store_errors(path),
        path.open("rb") as stream,
        tarfile.open(fileobj=stream, mode="r:") as tar,
    ):
        for entry in tar:
            name, _, member = entry.name.partition(".")
            if (
                not KEY_PATTERN.fullmatch(name)
                or member not in (*MEMBERS, *FEATURE_MEMBERS)
                or not entry.isfile()
            ):
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
    """The bytes of one extent of a shard, by one read of exactly these bytes.

    An fsspec address is asked for the range alone: an opened remote file would read ahead by megabytes.

    Args:
        root: the folder of shards, local or an fsspec address.
        shard: path of the tar below `root`.
        extent: of a member, or of several that lie side by side.

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

    Args:
        root: the folder of shards, local or an fsspec address.
        row: of ``shards.parquet``: ``shard``, and offset and size of each of `MEMBERS`.

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
