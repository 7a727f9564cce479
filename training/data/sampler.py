"""Sampling: exact epochs over shards, in an order that is a pure function of (seed, position).

The manifest gives every sample's shard and offsets, so the order of all batches is known before anything is
read. It depends neither on the number of loader workers nor on the number of processes, each epoch holds
every sample exactly once, and a stopped run resumes at any batch without reading those before it.

The shards, in one random order for the whole run, are cut into as many partitions as are mixed at a time.
Position p of the run is a sample of partition p mod C. Of W processes, one takes the positions that are r mod
W; if W divides C these are whole partitions, so that each shard is read by one process, and by the same in
every epoch. Only the C - 1 shards in which a cut falls are read by two. This is the canonical partitioning of
MosaicML Streaming (https://docs.mosaicml.com/projects/streaming/en/stable/), by samples instead of nodes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from training.data.index import Column
from training.data.samples import Samples

Indices = NDArray[np.int64]


class _Shards:
    """The samples of each shard, without a copy of the whole if the manifest lists them shard by shard."""

    def __init__(self, shards: Sequence[str]) -> None:
        codes = shards.codes if isinstance(shards, Column) else np.unique(shards, return_inverse=True)[1]
        sizes = np.bincount(codes)
        self.sizes = sizes[sizes > 0]
        self._starts = np.cumsum(self.sizes) - self.sizes
        grouped = bool((codes[1:] >= codes[:-1]).all())
        self._order = None if grouped else np.argsort(codes, kind="stable")

    def samples(self, shard: int, within: Indices) -> Indices:
        """Positions in the manifest of samples that are given by their numbers `within` a shard."""
        positions = self._starts[shard] + within
        return positions if self._order is None else self._order[positions]


@dataclass
class _Partition:
    """One partition in one epoch: pieces of shards in the order in which they are read.

    Attributes:
        shards: int64 (P,), the shard of each piece.
        starts: int64 (P,), the first sample of each piece within its shard, which is shuffled.
        ends: int64 (P,), how many samples the pieces up to and including each have.
    """

    shards: Indices
    starts: Indices
    ends: Indices
    _first: int = 0
    _piece: Indices | None = None

    def sample(self, number: int, shards: _Shards, seed: tuple[int, int]) -> int:
        """The position in the manifest of the `number`-th sample, which is most often of the same piece."""
        if self._piece is None or not 0 <= number - self._first < len(self._piece):
            piece = int(np.searchsorted(self.ends, number, side="right"))
            shard = int(self.shards[piece])
            self._first = int(self.ends[piece - 1]) if piece else 0
            start, count = int(self.starts[piece]), int(self.ends[piece]) - self._first
            shuffled = np.random.default_rng([*seed, 1, shard]).permutation(shards.sizes[shard])
            self._piece = shards.samples(shard, shuffled[start : start + count])
        return int(self._piece[number - self._first])


class _Epoch:
    """The partitions of one epoch; planning them costs as much as there are shards, not samples."""

    def __init__(self, shards: _Shards, seed: int, epoch: int, partitions: int) -> None:
        self._shards, self._seed, self._count = shards, (seed, epoch), partitions
        self._start = epoch * int(shards.sizes.sum())
        line = np.random.default_rng(seed).permutation(len(shards.sizes))
        bounds = np.concatenate([[0], np.cumsum(shards.sizes[line])])
        # A partition is as long as there are positions of its own in this epoch.
        lengths = [self._length(each, bounds[-1]) for each in range(partitions)]
        cuts = np.concatenate([[0], np.cumsum(lengths)])
        self._partitions = [
            self._partition(line, bounds, each, cuts[each], cuts[each + 1]) for each in range(partitions)
        ]

    def sample(self, position: int) -> int:
        """The position in the manifest of a position of the run."""
        partition = position % self._count
        number = (position - self._first(partition)) // self._count
        return self._partitions[partition].sample(number, self._shards, self._seed)

    def _first(self, partition: int) -> int:
        return self._start + (partition - self._start) % self._count

    def _length(self, partition: int, samples: int) -> int:
        return len(range(self._first(partition), self._start + samples, self._count))

    def _partition(self, line: Indices, bounds: Indices, number: int, start: int, stop: int) -> _Partition:
        """The samples `start` to `stop` of the shards in a `line`, whose samples end at `bounds`."""
        first, last = np.searchsorted(bounds, start, side="right") - 1, np.searchsorted(bounds, stop)
        places = np.random.default_rng([*self._seed, 0, number]).permutation(np.arange(first, last))
        starts = np.maximum(bounds[places], start)
        lengths = np.minimum(bounds[places + 1], stop) - starts
        return _Partition(line[places], starts - bounds[places], np.cumsum(lengths))


class BatchSampler:
    """The batches of a run: consecutive epochs, cut into batches of equal size.

    A batch may hold the end of one epoch and the start of the next, so no sample is dropped or
    repeated whatever the batch size. Of several ranks, each takes its own stride of every batch.

    Args:
        shards: shard of each sample.
        seed: of the order of shards, and of samples within them.
        partitions: how many shards are mixed at a time; ranks whose number divides it share no shards but
            those in which a cut falls.
        batch_size: samples per batch over all ranks.
        start, stop: the first batch, and the one after the last.
        rank, world: this rank takes the samples ``rank``, ``rank + world``, ... of each batch.

    Raises:
        UserError: there are no samples.
    """

    def __init__(
        self,
        shards: Sequence[str],
        seed: int,
        partitions: int,
        batch_size: int,
        start: int,
        stop: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if not len(shards):
            raise UserError("there are no samples to train on; look at the splits in shards.parquet")
        self._shards, self._count = _Shards(shards), len(shards)
        self._seed, self._partitions = seed, partitions
        self._batch_size, self._start, self._stop = batch_size, start, stop
        self._rank, self._world = rank, world

    def __len__(self) -> int:
        return self._stop - self._start

    def __iter__(self) -> Iterator[list[int]]:
        number, epoch = -1, None
        for step in range(self._start, self._stop):
            batch = []
            first = step * self._batch_size
            for position in range(first + self._rank, first + self._batch_size, self._world):
                if epoch is None or position // self._count != number:
                    number = position // self._count
                    epoch = _Epoch(self._shards, self._seed, number, self._partitions)
                batch.append(epoch.sample(position))
            yield batch


def sequential_batches(samples: Samples, batch_size: int) -> list[list[int]]:
    """Every sample once, in the manifest's order, for evaluation."""
    count = len(samples)
    return [list(range(start, min(start + batch_size, count))) for start in range(0, count, batch_size)]
