"""The work of a stage: which shards are stale, who makes them, and what happens when a worker dies.

One shard is one Dask task; no task knows of another. An exception in a task ends the run. A
shard whose workers keep dying is made again alone, after all others: first each of its
sources is touched by itself, and its name written down before. When the workers die at the
same source each time, that source is left out and quarantined as ``worker-died``.
"""

import json
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Generic, Self, TypeVar

from distributed import Client, KilledWorker, get_worker

from common.config import Config
from common.errors import UserError
from common.files import remove_partials, write_text
from common.layout import Layout
from common.pipeline_config import Cluster
from common.progress import progress
from common.storage import Address
from pipeline.runner.cluster import connect, eligible_workers, map_bounded, settle
from pipeline.runner.quarantine import Refusals
from pipeline.runner.shard_record import StageRun, read_record, remove_unplanned, write_stage_run

UNCLEAR_ROUNDS: Final = 3
"""How often the workers of a lone shard may die at changing places before the run gives up."""

Advance = Callable[[int], None]
"""Says from within a task that so many more of its rows are done."""


@dataclass(frozen=True)
class ShardTask:
    """One shard of work.

    Attributes:
        tar: the tar to make; its record lies beside it.
        fingerprint: hash of all that the tar's bytes depend on.
        size: rows, for the progress display.
    """

    tar: Address
    fingerprint: str
    size: int


Task = TypeVar("Task", bound=ShardTask)


@dataclass(frozen=True)
class Stage(Generic[Task]):
    """What a stage does to one shard; all of it is sent to the workers.

    Attributes:
        name: such as ``parse``.
        unit: plural name of a row.
        load: loads the model, called once per worker process.
        make: writes the tar and its record; sources in the set are left out and quarantined.
        touch: does with each source alone what `make` does with it, without the ones in
            the set; yields a source's name before it is touched.
    """

    name: str
    unit: str
    load: Callable[[], object]
    make: Callable[[Task, frozenset[str], Advance], None]
    touch: Callable[[Task, frozenset[str]], Iterator[str]]


def finish_shards(
    stage: Stage[Task],
    tasks: Sequence[Task],
    folder: Address,
    config: Config,
    layout: Layout,
    refusals: Refusals,
) -> int:
    """Make all shards of `tasks` that are not finished, and return how many those were.

    Args:
        stage: what to do.
        tasks: all shards of the plan.
        folder: where their tars lie; others in it, and what killed runs left, are deleted.
        config: the configuration.
        layout: where the run of the stage is recorded, unless it had nothing to make.
        refusals: knows what was refused before this stage.

    Raises:
        UserError: too many sources are refused, workers die without a cause, or a disk is full.
        RuntimeError: a task failed, which is a defect here; names the shard.
    """
    start = time.monotonic()
    remove_partials(folder)
    remove_partials(layout.manifests)
    remove_unplanned(folder, {task.tar for task in tasks})
    stale = []
    for task in tasks:
        record = read_record(task.tar)
        if record is None or record.fingerprint != task.fingerprint:
            stale.append(task)
        else:
            refusals.add(record.quarantined)
    if not stale:
        return 0
    rows = sum(task.size for task in stale)
    with connect(config.cluster, len(stale), stage.load) as client:
        workers = eligible_workers(client, config.cluster.resources)
        with _Display(client, stage, sum(task.size for task in tasks), rows) as display:
            for task in _finish(client, stage, stale, config.cluster, display.topic):
                display.reach(str(task.tar), task.size)
                record = read_record(task.tar)
                refusals.add(record.quarantined if record else ())
    seconds = round(time.monotonic() - start, 1)
    write_stage_run(
        layout.manifests,
        stage.name,
        StageRun(seconds, workers, len(stale), len(tasks) - len(stale), rows),
    )
    return len(stale)


def _finish(
    client: Client, stage: Stage[Task], stale: Sequence[Task], cluster: Cluster, topic: str
) -> Iterator[Task]:
    """Make the shards and yield each that is finished; the suspected ones last, one at a time."""
    suspected = []
    for task, future in map_bounded(client, partial(_make, stage, topic), stale, cluster):
        error = future.exception()
        if isinstance(error, KilledWorker):
            suspected.append(task)
            continue
        if error is not None:
            raise _described(stage, task, error) from error
        yield task
    for task in suspected:
        print(f"{stage.name}: workers died while they made {task.tar}; looking for the file", file=sys.stderr)
        _isolate(client, stage, task, cluster, topic)
        yield task


def _described(stage: Stage[Any], task: ShardTask, error: BaseException) -> Exception:
    """An error of a task, with the shard's name."""
    if isinstance(error, UserError):
        return UserError(f"{stage.name}, {task.tar}: {error}")
    if isinstance(error, OSError):
        return UserError(f"{stage.name}, {task.tar}: {error.strerror or error}")
    return RuntimeError(f"{stage.name} failed at {task.tar}: {type(error).__name__}: {error}")


def _make(stage: Stage[Task], topic: str, task: Task, left_out: frozenset[str] = frozenset()) -> None:
    """The Dask task: make one shard and say how far it is."""
    settle()
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        get_worker().log_event(topic, (str(task.tar), done))

    stage.make(task, left_out, advance)


def _isolate(client: Client, stage: Stage[Task], task: Task, cluster: Cluster, topic: str) -> None:
    left_out: frozenset[str] = frozenset()
    note = task.tar.with_name(f".{task.tar.name}.touched.partial")
    unclear = 0
    while True:
        note.unlink(missing_ok=True)
        attempt = partial(_touch_and_make, stage, topic, note, left_out)
        [(_, future)] = map_bounded(client, attempt, [task], cluster)
        error = future.exception()
        if error is None:
            return
        if not isinstance(error, KilledWorker):
            raise _described(stage, task, error) from error
        touched = set(_read_note(note))
        if len(touched) == 1 and None not in touched:
            left_out |= {str(touched.pop())}
            continue
        unclear += 1
        if unclear == UNCLEAR_ROUNDS:
            note.unlink(missing_ok=True)
            raise UserError(
                f"{stage.name}, {task.tar}: the workers keep dying, and not at one file; "
                "is there enough memory? Fewer workers (cluster.workers) need less"
            )


def _touch_and_make(
    stage: Stage[Task], topic: str, note: Address, left_out: frozenset[str], task: Task
) -> None:
    """The Dask task of a suspected shard; `note` holds what each attempt touched last, null when all was."""
    settle()
    earlier = _read_note(note)
    for source in stage.touch(task, left_out):
        write_text(note, json.dumps([*earlier, source]))
    write_text(note, json.dumps([*earlier, None]))
    _make(stage, topic, task, left_out)
    note.unlink(missing_ok=True)


def _read_note(note: Address) -> list[str | None]:
    return json.loads(note.read_text(encoding="utf-8")) if note.is_file() else []


class _Display:
    """The progress of a stage: right also when a shard begins again after its worker died."""

    def __init__(self, client: Client, stage: Stage[Any], total: int, stale: int) -> None:
        self.topic = f"{stage.name}-{uuid.uuid4().hex}"
        self._client = client
        self._bar = progress(stage.name, total, stage.unit, total - stale)
        self._reached: dict[str, int] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._client.subscribe_topic(self.topic, lambda event: self.reach(*event[1]))
        return self

    def reach(self, shard: str, rows: int) -> None:
        """Say how many rows of a shard are done."""
        with self._lock:
            self._bar.update(rows - self._reached.get(shard, 0))
            self._reached[shard] = rows

    def __exit__(self, *error: object) -> None:
        with suppress(OSError):
            self._client.unsubscribe_topic(self.topic)
        self._bar.close()
