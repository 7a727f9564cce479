"""Loading: planned batches are read and decoded by threads, ahead of their use."""

import sys
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from threading import Lock
from typing import Any, Final, TypeVar
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.config import Config
from common.errors import UserError
from common.hardware import hardware
from common.members import BrokenSample, decode_cell_counts, decode_face, decode_features, decode_mask
from common.pipeline_config import Stream
from common.shards import read_extent
from training.data.sampler import planned_batches
from training.data.samples import Samples
from training.data.shard_cache import ShardCache

T = TypeVar("T")
PREFETCH_BATCHES: Final = 64  # How many batches before its first use a remote shard is requested
# The members of a sample that the loader can read.
DECODERS: Final[dict[str, Callable[[bytes], NDArray[Any]]]] = {
    "jpg": decode_face,
    "mask.png": decode_mask,
    "parts.npy": decode_cell_counts,
    "pooled.npy": decode_features,
    "embedding.npy": decode_features,
}


@dataclass(frozen=True)
class Batch:
    """One batch as the loader returns it; the tensor of a member that was not read is empty, (0,)."""

    images: Tensor  # uint8 (B, 3, S, S), RGB, channels-last in memory as it was decoded
    masks: Tensor  # uint8 (B, S, S), classes 0..18
    indices: Tensor  # int64 (B,), positions in `Samples`
    # int32 (B, G, G, 19), pixels per class and grid cell.
    cell_counts: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int32))
    # float16 (B, D), the parser's features of whole faces.
    pooled: Tensor = field(default_factory=lambda: torch.empty(0))
    # float16 (B, D), the features of further networks, one field after the other.
    embedding: Tensor = field(default_factory=lambda: torch.empty(0))

    def to(self, device: torch.device) -> "Batch":
        """The batch on another device, without waiting for the copy of a pinned one."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> "Batch":
        """The batch in memory that a GPU copies from while the host goes on."""
        return self._map(Tensor.pin_memory)

    def micro_batch(self, number: int, count: int) -> "Batch":
        """The `number`-th of `count` micro-batches: every `count`-th sample from `number` on."""
        return self._map(lambda tensor: tensor[number::count])

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        return Batch(*(function(getattr(self, each.name)) for each in fields(self)))


def batch_of(members: Mapping[str, NDArray[Any]], indices: Tensor) -> Batch:
    """The batch of members as `DECODERS` give them, stacked, with these `indices`, int64 (B,)."""
    tensors = {name: torch.from_numpy(values) for name, values in members.items()}
    images, masks, counts, *features = (
        tensors.get(name, torch.empty(0, dtype=torch.uint8)) for name in DECODERS
    )
    images = images.permute(0, 3, 1, 2) if len(images) else images
    return Batch(images, masks, indices, counts.to(torch.int32), *features)


class BrokenSamples:
    """The broken samples that one process of a run has come across, at most as many as are replaced."""

    def __init__(self, most: int) -> None:
        self._most, self._lock = most, Lock()
        self.keys: set[str] = set()  # of these samples

    def add(self, key: str, message: str) -> None:
        """Print the message about a broken sample, once.

        Raises:
            UserError: there are more than `most`.
        """
        with self._lock:
            if key in self.keys:
                return
            self.keys.add(key)
        print(f"{message}; another sample takes its place", file=sys.stderr, flush=True)
        if len(self.keys) > self._most:
            raise UserError(
                f"{len(self.keys)} samples are broken, more than stream.max_broken={self._most}; "
                f"`python -m pipeline.verify` lists them. The last one: {message}"
            )


class _Reader:
    """Reads and decodes samples; without `broken`, one that is broken is an error."""

    def __init__(
        self, samples: Samples, members: Iterable[str], cache: ShardCache, broken: BrokenSamples | None
    ) -> None:
        self._samples, self._cache, self._broken = samples, cache, broken
        self._decoders = {name: DECODERS[name] for name in members}

    def batch(self, indices: list[int]) -> Batch:
        read, decoded = zip(*map(self._sample_or_next, indices), strict=True)
        members = {name: np.stack([sample[name] for sample in decoded]) for name in self._decoders}
        batch = batch_of(members, torch.tensor(read))
        return batch.pinned() if hardware().device.type == "cuda" else batch

    def _sample_or_next(self, index: int) -> tuple[int, dict[str, NDArray[Any]]]:
        """A sample and its index; of a broken one, those of the next in the manifest that is not broken."""
        while True:
            try:
                return index, self._sample(index)
            except BrokenSample as error:
                key = self._samples.keys[index]
                message = f"{self._samples.root / self._samples.shards[index]}, sample {key}: {error}"
                if self._broken is None or len(self._broken.keys) == len(self._samples):
                    raise UserError(message) from error
                self._broken.add(key, message)
                index = (index + 1) % len(self._samples)

    def _sample(self, index: int) -> dict[str, NDArray[Any]]:
        samples, decoded = self._samples, {}
        shard = samples.shards[index]
        with self._cache.open(shard) as descriptor:
            for name, decode in self._decoders.items():
                data = read_extent(descriptor, samples.extent(name, index), shard)
                checksum = int(samples.extents[name][index, 2])
                if checksum and crc32(data) != checksum:
                    raise BrokenSample(f"{name}: CRC-32 {crc32(data)}, written with {checksum}")
                decoded[name] = decode(data)
        return decoded


def load(
    samples: Samples,
    batches: Iterable[list[int]],
    members: Collection[str],
    workers: int,
    stream: Stream,
    broken: BrokenSamples | None = None,
) -> Iterator[Batch]:
    """Read planned batches, positions in `samples`, in their order whatever the number of workers.

    Workers are threads that read one batch each, up to two batches ahead per thread: reading and decoding
    release Python's lock, so no process has to be forked or fed; with 0 each batch is read when requested.
    Remote shards are downloaded further ahead. `members`, of `DECODERS`, are what is read of a sample.

    `broken` collects samples whose bytes are not those that the manifest describes; in a batch, the next
    sample of the manifest takes the place of each. None: they are errors.

    Raises:
        UserError: samples are broken, or more than may be; a shard cannot be read; there is no such member.
    """
    if missing := sorted(set(members) - samples.extents.keys()):
        raise UserError(
            f"{samples.root} has no {missing[0]}; parse the faces again, such as by "
            "`python -m pipeline.parse --from OUT --output NEW --set parse.parser=bisenet`"
        )
    with ShardCache(samples.root, stream) as cache:
        reader = _Reader(samples, members, cache, broken)

        def requested() -> Iterator[list[int]]:
            for indices in batches:
                cache.prefetch(dict.fromkeys(samples.shards[index] for index in indices))
                yield indices

        planned = _delayed(requested(), PREFETCH_BATCHES)
        if workers == 0:
            yield from map(reader.batch, planned)
            return
        with ThreadPoolExecutor(workers, thread_name_prefix="loader") as pool:
            try:
                pending = (pool.submit(reader.batch, indices) for indices in planned)
                yield from (batch.result() for batch in _delayed(pending, 2 * workers))
            finally:
                pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class TrainingData:
    """What a run trains on, read in planned batches."""

    samples: Samples
    members: Collection[str]  # see `load`
    seed: int  # of the order of the samples
    config: Config  # loader workers, how many shards are mixed, and the cache of remote ones
    broken: BrokenSamples  # see `load`

    def batches(self, size: int, start: int, stop: int, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """Batches `start` to `stop` of consecutive epochs, of each the part of `rank`: `planned_batches`."""
        trainer, stream = self.config.trainer, self.config.stream
        mixed, workers = trainer.shuffle_shards, trainer.loader_workers
        planned = planned_batches(self.samples.shards, self.seed, mixed, size, start, stop, rank, world)
        return load(self.samples, planned, self.members, workers, stream, self.broken)


def _delayed(values: Iterable[T], count: int) -> Iterator[T]:
    """The same values, each given when `count` more have been taken."""
    delayed: deque[T] = deque()
    for value in values:
        delayed.append(value)
        if len(delayed) > count:
            yield delayed.popleft()
    yield from delayed
