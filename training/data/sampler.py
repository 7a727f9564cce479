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
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from training.data.samples import Column, Samples


def planned_batches(
    shards: Sequence[str],
    seed: int,
    partitions: int,
    batch_size: int,
    start: int,
    stop: int,
    rank: int = 0,
    world: int = 1,
) -> Iterator[list[int]]:
    """The batches of a run: consecutive epochs, cut into batches of equal size.

    A batch may hold the end of one epoch and the start of the next, so no sample is dropped or repeated.

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
    if not (count := len(shards)):
        raise UserError("there are no samples to train on; look at the splits in shards.parquet")
    if isinstance(shards, Column):
        codes = shards.values.indices.to_numpy()  # of the dictionary
    else:
        codes = np.unique(shards, return_inverse=True)[1]
    sizes = np.bincount(codes)
    by_shard = np.split(np.argsort(codes, kind="stable"), np.cumsum(sizes[sizes > 0])[:-1])

    @lru_cache(maxsize=1)
    def epoch(number: int) -> NDArray[np.int64]:
        return _epoch(by_shard, count, seed, partitions, number)

    def batch(step: int) -> list[int]:
        positions = range(step * batch_size + rank, (step + 1) * batch_size, world)
        return [int(epoch(position // count)[position % count]) for position in positions]

    return map(batch, range(start, stop))


def _epoch(
    by_shard: list[NDArray[np.int64]], count: int, seed: int, partitions: int, number: int
) -> NDArray[np.int64]:
    """The samples of one epoch in their order, int64 (`count`,)."""
    line = np.random.default_rng(seed).permutation(len(by_shard))
    shuffled = [
        np.random.default_rng([seed, number, 1, shard]).permutation(by_shard[shard]) for shard in line
    ]
    samples, shards = np.concatenate(shuffled), np.repeat(line, [len(each) for each in shuffled])
    order, cut = np.empty(count, np.int64), 0
    for partition in range(partitions):
        # A partition is as long as there are positions of its own in this epoch.
        positions = np.arange((partition - number * count) % partitions, count, partitions)
        mine = slice(cut, cut + len(positions))
        pieces = np.split(samples[mine], np.flatnonzero(np.diff(shards[mine])) + 1)
        drawn = np.random.default_rng([seed, number, 0, partition]).permutation(len(pieces))
        order[positions] = np.concatenate([pieces[each] for each in drawn])
        cut += len(positions)
    return order


def sequential_batches(samples: Samples, batch_size: int) -> list[list[int]]:
    """Every sample once, in the manifest's order, for evaluation."""
    every = list(range(len(samples)))
    return [every[start : start + batch_size] for start in range(0, len(samples), batch_size)]
