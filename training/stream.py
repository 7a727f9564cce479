"""Streaming: exact epochs over shards, in an order that is a pure function of (seed, epoch).

The manifest knows every sample's shard and offsets, so the order of all
batches is planned before anything is read. It does not depend on the number
of loader workers, each epoch holds every sample exactly once, and a stopped
run goes on at any batch without reading what came before.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from contract import manifest
from contract.config import Stream
from contract.errors import UserError
from contract.layout import Layout
from contract.shards import BrokenSample, Extent, decode_face, decode_mask, decode_parts, read_extent
from contract.storage import Address
from training.shard_files import ShardFiles

ANNOUNCED: Final = 64
"""Batches between the moment when a remote shard is asked for and its first use."""


@dataclass(frozen=True)
class Faces:
    """The samples of some splits, as the manifest lists them.

    Attributes:
        root: folder or fsspec address of the shards.
        keys: sample keys.
        shards: shard path of each sample, below `root`.
        extents: by member name (``jpg``, ``mask.png``, ``parts.npy``), int64 (N, 2) of offset and size.
        attribute_names: names of the label columns.
        attributes: int8 (N, A), 0 or 1, -1 where unknown.
        identities: identity of each sample, or None.
    """

    root: Address
    keys: Sequence[str]
    shards: Sequence[str]
    extents: dict[str, NDArray[np.int64]]
    attribute_names: tuple[str, ...]
    attributes: NDArray[np.int8]
    identities: Sequence[str | None]

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, indices: NDArray[np.int64]) -> "Faces":
        """Only the samples at `indices`, in that order."""
        return Faces(
            self.root,
            [self.keys[i] for i in indices],
            [self.shards[i] for i in indices],
            {name: extent[indices] for name, extent in self.extents.items()},
            self.attribute_names,
            self.attributes[indices],
            [self.identities[i] for i in indices],
        )

    def labelled(self) -> "Faces":
        """Only the samples with at least one known attribute."""
        return self.take(np.flatnonzero((self.attributes >= 0).any(axis=1)))


def read_faces(layout: Layout, splits: Sequence[str]) -> Faces:
    """The samples of the given splits.

    Raises:
        UserError: there is no manifest.
    """
    found = manifest.read(layout.require_samples())
    table = found.table
    wanted = np.isin(np.array(table["split"].to_pylist()), splits)
    table = table.filter(wanted)
    columns = [np.asarray(table[name].fill_null(-1)).astype(np.int8) for name in found.attributes]
    return Faces(
        root=layout.shards,
        keys=table["key"].to_pylist(),
        shards=table["shard"].to_pylist(),
        extents={
            name: np.stack([np.asarray(table[f"{name}.{what}"]) for what in ("offset", "size")], axis=1)
            for name in ("jpg", "mask.png", "parts.npy")
        },
        attribute_names=found.attributes,
        attributes=np.stack(columns, axis=1) if columns else np.empty((table.num_rows, 0), np.int8),
        identities=table["identity"].to_pylist(),
    )


def epoch_order(shards: Sequence[str], seed: int, epoch: int, window: int) -> NDArray[np.int64]:
    """The order of one epoch: shards are shuffled, then the samples within each `window` of shards.

    A window bounds how many shards are read at the same time.

    Returns:
        int64 (N,), a permutation of 0..N-1 that depends on the arguments alone.
    """
    random = np.random.default_rng([seed, epoch])
    names, numbers = np.unique(np.asarray(shards), return_inverse=True)
    shuffled = random.permutation(len(names))
    place = np.empty(len(names), np.int64)
    place[shuffled] = np.arange(len(names)) // window
    return np.lexsort((random.random(len(shards)), place[numbers])).astype(np.int64)


class PlannedBatches:
    """The batches of a run: epochs one after the other, cut into equal batches.

    A batch may hold the end of one epoch and the start of the next, so no sample is
    dropped or repeated whatever the batch size. With several ranks each takes its own
    stride of every batch.

    Args:
        shards: shard of each sample.
        seed, window: see `epoch_order`.
        batch_size: samples per batch over all ranks.
        start, stop: first batch, and the one after the last.
        rank, world: which part of each batch.
    """

    def __init__(
        self,
        shards: Sequence[str],
        seed: int,
        window: int,
        batch_size: int,
        start: int,
        stop: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if not shards:
            raise UserError("there are no samples to train on; look at the splits in shards.parquet")
        self._shards, self._seed, self._window = shards, seed, window
        self._batch_size, self._start, self._stop = batch_size, start, stop
        self._rank, self._world = rank, world

    def __len__(self) -> int:
        return self._stop - self._start

    def __iter__(self) -> Iterator[list[int]]:
        count = len(self._shards)
        epoch, order = -1, np.empty(0, np.int64)
        for step in range(self._start, self._stop):
            batch = []
            for position in range(step * self._batch_size, (step + 1) * self._batch_size):
                if position // count != epoch:
                    epoch = position // count
                    order = epoch_order(self._shards, self._seed, epoch, self._window)
                batch.append(int(order[position % count]))
            yield batch[self._rank :: self._world]


@dataclass(frozen=True)
class Batch:
    """One batch as the loader hands it over.

    Attributes:
        images: uint8 (B, 3, S, S), RGB, channels-last in memory as it was decoded.
        masks: uint8 (B, S, S), classes 0..18; empty (0,) if they were not asked for.
        indices: int64 (B,), positions in `Faces`.
        parts: int32 (B, G, G, 19), stored pixel counts; empty (0,) if they were not asked for.
    """

    images: Tensor
    masks: Tensor
    indices: Tensor
    parts: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int32))

    def to(self, device: torch.device) -> "Batch":
        """The batch on another device."""
        tensors = (self.images, self.masks, self.indices, self.parts)
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in tensors))

    def part(self, number: int, count: int) -> "Batch":
        """Every `count`-th sample from `number` on."""
        return Batch(*(t[number::count] for t in (self.images, self.masks, self.indices, self.parts)))


class _Reader:
    """Reads and decodes samples."""

    def __init__(self, faces: Faces, masks: bool, parts: bool, files: ShardFiles) -> None:
        self._faces, self._files = faces, files
        self._decoders: dict[str, Callable[[bytes], NDArray[Any]]] = {"jpg": decode_face}
        if masks:
            self._decoders["mask.png"] = decode_mask
        if parts:
            self._decoders["parts.npy"] = decode_parts

    def batch(self, indices: list[int]) -> Batch:
        samples = [self._sample(index) for index in indices]
        stacked = {name: np.stack([sample[name] for sample in samples]) for name in self._decoders}
        masks, parts = stacked.get("mask.png"), stacked.get("parts.npy")
        return Batch(
            torch.from_numpy(stacked["jpg"]).permute(0, 3, 1, 2),
            torch.empty(0, dtype=torch.uint8) if masks is None else torch.from_numpy(masks),
            torch.tensor(indices),
            torch.from_numpy((np.empty(0) if parts is None else parts).astype(np.int32)),
        )

    def _sample(self, index: int) -> dict[str, NDArray[Any]]:
        shard = self._faces.shards[index]
        try:
            with self._files.opened(shard) as descriptor:
                return {
                    name: decode(self._member(descriptor, index, name))
                    for name, decode in self._decoders.items()
                }
        except BrokenSample as error:
            faces = self._faces
            raise UserError(f"{faces.root / shard}, sample {faces.keys[index]}: {error}") from error

    def _member(self, descriptor: int, index: int, member: str) -> bytes:
        offset, size = self._faces.extents[member][index]
        return read_extent(descriptor, Extent(int(offset), int(size)), self._faces.shards[index])


def load(
    faces: Faces,
    batches: Iterable[list[int]],
    masks: bool,
    workers: int,
    stream: Stream,
    parts: bool = False,
) -> Iterator[Batch]:
    """Read planned batches, in their order whatever the number of workers.

    Workers are threads, one batch each, up to two batches ahead per thread: reading and decoding leave
    Python's lock, and no process has to be forked or fed. Remote shards are downloaded further ahead.

    Args:
        faces: where the samples lie.
        batches: positions in `faces`, such as `PlannedBatches`.
        masks: whether masks are read too.
        workers: threads; 0 reads when asked.
        stream: the cache of remote shards.
        parts: whether stored part counts are read too.

    Raises:
        UserError: a shard does not hold what the manifest says.
    """
    with ShardFiles(faces.root, stream.cache, round(stream.cache_gigabytes * 1e9)) as files:
        reader = _Reader(faces, masks, parts, files)
        planned = _announced(faces, batches, files)
        if workers == 0:
            yield from map(reader.batch, planned)
            return
        ahead: deque[Future[Batch]] = deque()
        with ThreadPoolExecutor(workers, thread_name_prefix="loader") as pool:
            try:
                for indices in planned:
                    ahead.append(pool.submit(reader.batch, indices))
                    if len(ahead) > 2 * workers:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                pool.shutdown(cancel_futures=True)


def _announced(faces: Faces, batches: Iterable[list[int]], files: ShardFiles) -> Iterator[list[int]]:
    """The same batches; the shards of each are fetched from `ANNOUNCED` batches before it on."""
    coming: deque[list[int]] = deque()
    for indices in batches:
        files.prefetch(dict.fromkeys(faces.shards[index] for index in indices))
        coming.append(indices)
        if len(coming) > ANNOUNCED:
            yield coming.popleft()
    yield from coming


def in_order(faces: Faces, batch_size: int) -> list[list[int]]:
    """Every sample once, in the manifest's order, for evaluation."""
    return [list(range(i, min(i + batch_size, len(faces)))) for i in range(0, len(faces), batch_size)]
