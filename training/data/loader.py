"""Loading: planned batches are read and decoded ahead of their use, by threads."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.config import Stream
from common.errors import UserError
from common.shards import BrokenSample, Extent, decode_cell_counts, decode_face, decode_mask, read_extent
from training.data.samples import Samples
from training.data.shard_cache import ShardFiles

ANNOUNCED: Final = 64
"""Batches between the moment when a remote shard is asked for and its first use."""


@dataclass(frozen=True)
class Batch:
    """One batch as the loader hands it over.

    Attributes:
        images: uint8 (B, 3, S, S), RGB, channels-last in memory as it was decoded.
        masks: uint8 (B, S, S), classes 0..18; empty (0,) if they were not asked for.
        indices: int64 (B,), positions in `Samples`.
        cell_counts: int32 (B, G, G, 19), stored pixel counts; empty (0,) if they were not asked for.
    """

    images: Tensor
    masks: Tensor
    indices: Tensor
    cell_counts: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int32))

    def to(self, device: torch.device) -> "Batch":
        """The batch on another device."""
        tensors = (self.images, self.masks, self.indices, self.cell_counts)
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in tensors))

    def part(self, number: int, count: int) -> "Batch":
        """Every `count`-th sample from `number` on."""
        return Batch(*(t[number::count] for t in (self.images, self.masks, self.indices, self.cell_counts)))


class _Reader:
    """Reads and decodes samples."""

    def __init__(self, faces: Samples, masks: bool, parts: bool, files: ShardFiles) -> None:
        self._faces, self._files = faces, files
        self._decoders: dict[str, Callable[[bytes], NDArray[Any]]] = {"jpg": decode_face}
        if masks:
            self._decoders["mask.png"] = decode_mask
        if parts:
            self._decoders["parts.npy"] = decode_cell_counts

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
    faces: Samples,
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


def _announced(faces: Samples, batches: Iterable[list[int]], files: ShardFiles) -> Iterator[list[int]]:
    """The same batches; the shards of each are fetched from `ANNOUNCED` batches before it on."""
    coming: deque[list[int]] = deque()
    for indices in batches:
        files.prefetch(dict.fromkeys(faces.shards[index] for index in indices))
        coming.append(indices)
        if len(coming) > ANNOUNCED:
            yield coming.popleft()
    yield from coming
