"""Dask: a local cluster of processes or somebody else's, and a bounded map over shards."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, TypeVar

from distributed import Client, LocalCluster, as_completed, get_worker

from contract.config import Cluster
from contract.errors import UserError
from contract.progress import Progress

Task = TypeVar("Task")
Result = TypeVar("Result")

PROGRESS_TOPIC: Final = "rows-done"


@contextmanager
def connect(config: Cluster, tasks: int) -> Iterator[Client]:
    """A client of the configured cluster.

    A local cluster has one process per core and one torch thread in each, for the
    models run faster side by side than on shared threads; never more processes than tasks.

    Raises:
        UserError: the scheduler's address does not answer.
    """
    if config.scheduler:
        try:
            client = Client(config.scheduler, timeout="10s")
        except (OSError, ValueError) as error:
            raise UserError(f"no Dask scheduler answers at {config.scheduler}: {error}") from error
        with client:
            print(f"joined {config.scheduler}; dashboard: {client.dashboard_link}")
            yield client
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = max(1, min(config.workers or cores, tasks))
    with (
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address=":0",
            silence_logs=logging.ERROR,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def advance(count: int) -> None:
    """Say from within a task that `count` more of its rows are done."""
    get_worker().log_event(PROGRESS_TOPIC, count)


def map_bounded(
    client: Client, function: Callable[[Task], Result], tasks: Sequence[Task], in_flight: int, bar: Progress
) -> Iterator[Result]:
    """Run `function` on each task and yield results as they finish.

    At most `in_flight` tasks per worker are submitted at a time, so memory does not grow
    with their number. Results come in the order of completion; `bar` follows `advance`.
    """
    client.subscribe_topic(PROGRESS_TOPIC, lambda event: bar.update(event[1]))
    waiting = iter(tasks)
    slots = max(1, in_flight * len(client.scheduler_info(n_workers=-1)["workers"]))
    running = as_completed()
    for _, task in zip(range(slots), waiting, strict=False):
        running.add(client.submit(function, task, pure=False))
    for future in running:
        yield future.result()
        following = next(waiting, None)
        if following is not None:
            running.add(client.submit(function, following, pure=False))
    client.unsubscribe_topic(PROGRESS_TOPIC)
