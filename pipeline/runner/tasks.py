"""Tasks on the workers of a cluster, few at a time."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

from distributed import Client, Future, KilledWorker, as_completed

from common.errors import UserError
from common.files import guard, guarded
from common.pipeline_config import Cluster
from pipeline.runner.cluster import connect, no_model, threads

Task = TypeVar("Task")
Result = TypeVar("Result")


def map_bounded(
    client: Client, function: Callable[[Task], object], tasks: Iterable[Task], config: Cluster
) -> Iterator[tuple[Task, Future]]:
    """Run `function` on each task; yield each with its finished future, in the order of completion.

    At most two tasks per thread of the workers are submitted at a time, so memory does not grow
    with their number; workers that join later get theirs. What guards writes here guards theirs.

    Raises:
        UserError: the scheduler went away.
    """
    waiting = iter(tasks)
    submitted: dict[str, Task] = {}
    running = as_completed()

    def submit_more() -> None:
        slots = max(1, 2 * sum(threads(client, config.resources)))
        for task in islice(waiting, max(0, slots - len(submitted))):
            future = client.submit(_run, guard(), function, task, pure=False, resources=config.resources)
            submitted[future.key] = task
            running.add(future)

    submit_more()
    for future in running:
        task = submitted.pop(future.key)
        if future.status in ("cancelled", "lost"):
            raise UserError("the Dask scheduler went away; the same command continues where this one ended")
        yield task, future
        submit_more()


def _run(check: Callable[[], None] | None, function: Callable[[Task], Result], task: Task) -> Result:
    with guarded(check):
        return function(task)


def read_bounded(
    config: Cluster, function: Callable[[Task], Result], tasks: Iterable[Task], count: int
) -> Iterator[tuple[Task, Result]]:
    """Run a reading `function` on each of `count` tasks on the cluster; yield each with what it returned.

    Raises:
        UserError: the cluster cannot be reached, or a task's workers died.
    """
    if not count:
        return
    module = getattr(function, "func", function).__module__  # of a partial, that of its function
    with connect(config, count, no_model, module) as client:
        for task, future in map_bounded(client, function, tasks, config):
            try:
                yield task, future.result()
            except KilledWorker as error:
                raise UserError(f"workers died while they read; is there enough memory? ({error})") from error
