"""Sampling: exact epochs over shards, in an order that is a pure function of (seed, epoch).

The manifest gives every sample's shard and offsets, so the order of all batches is known before
anything is read. It does not depend on the number of loader workers, each epoch holds every sample
exactly once, and a stopped run resumes at any batch without reading those before it.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from training.data.samples import Samples


def epoch_order(shards: Sequence[str], seed: int, epoch: int, window: int) -> NDArray[np.int64]:
    """The order of one epoch: shards are shuffled, then the samples within each `window` of shards.

    The window bounds how many shards are read at the same time.

    Returns:
        int64 (N,), a permutation of 0..N-1 that depends on the arguments alone.
    """
    random = np.random.default_rng([seed, epoch])
    names, numbers = np.unique(np.asarray(shards), return_inverse=True)
    shuffled = random.permutation(len(names))
    window_of_shard = np.empty(len(names), np.int64)
    window_of_shard[shuffled] = np.arange(len(names)) // window
    return np.lexsort((random.random(len(shards)), window_of_shard[numbers])).astype(np.int64)


class BatchSampler:
    """The batches of a run: consecutive epochs, cut into batches of equal size.

    A batch may hold the end of one epoch and the start of the next, so no sample is dropped or
    repeated whatever the batch size. Of several ranks, each takes its own stride of every batch.

    Args:
        shards: shard of each sample.
        seed, window: see `epoch_order`.
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


def sequential_batches(samples: Samples, batch_size: int) -> list[list[int]]:
    """Every sample once, in the manifest's order, for evaluation."""
    count = len(samples)
    return [list(range(start, min(start + batch_size, count))) for start in range(0, count, batch_size)]
