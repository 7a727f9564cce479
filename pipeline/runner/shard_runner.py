"""The work of a stage: which shards are stale, who makes them, and what happens when a worker dies.

One shard is one Dask task; no task knows of another. An exception in a task ends the run, save for those of a
store that does not answer: its shard is tried again after all others. A shard whose workers keep dying is
made again by itself, after all others: each of its sources is probed alone, and its name written down first.
When the workers die at the same source each time, that source is excluded and quarantined as ``worker-died``.
The names go through a file because a process that dies takes the events with it that it has not sent yet.
"""

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from distributed import Client, KilledWorker, get_worker

from common.config import Config
from common.errors import UserError
from common.files import remove_partials, write_text
from common.layout import Layout, mark_output
from common.pipeline_config import Cluster
from common.retry import Backoff, retried
from common.storage import Address, is_transient
from pipeline.runner.cluster import connect, settle, threads
from pipeline.runner.finished_shards import FinishedShard, FinishedShards
from pipeline.runner.monitor import Monitor
from pipeline.runner.planned_shards import PlannedShards
from pipeline.runner.shard_record import CHANGED, Refusals, ShardStage, ShardTask, Task, read_record
from pipeline.runner.tasks import map_bounded


def finish_shards(
    stage: ShardStage[Task],
    tasks: Sequence[Task],
    planned: PlannedShards,
    root: Address,
    config: Config,
    layout: Layout,
    any_code: bool,
    prune: bool,
    earlier: Iterable[FinishedShard] = (),
) -> tuple[int, FinishedShards]:
    """Make all shards that are not finished; gives how many were made, and all finished ones.

    What killed runs left in their folder, that of the data set in `root`, is deleted. Finished shards that
    other code made are kept with `any_code`, and those that are not planned are deleted with `prune`. If
    shards were made, the run is logged beside the manifests. Refusals of `earlier` stages' shards count.

    Raises:
        UserError: there are shards that are not planned, too many sources are refused, workers die without
            a cause, a disk is full, or a store did not answer for so long that shards are missing.
        RuntimeError: a task failed, which is a defect here; names the shard.
    """
    start = time.monotonic()
    folder = (root / planned.metadata["dataset"]).absolute()
    refusals = Refusals(planned.sources, config.quarantine.max_fraction)
    refusals.add(row for batch in planned.refused.to_batches() for row in batch.to_pylist())
    for shard in earlier:
        refusals.add(shard.quarantined)
    retry = partial(retried, minutes=config.stream.retry_minutes, stage=stage.name)
    retry(lambda: mark_output(folder))
    remove_partials(folder)
    remove_partials(layout.manifests)
    finished: FinishedShards = retry(lambda: FinishedShards(folder, layout, stage.name))
    retry(lambda: finished.remove_unplanned({task.tar.name for task in tasks}, prune))
    stale = stale_tasks(stage.name, tasks, finished, refusals, any_code)
    if not stale:
        retry(lambda: finished.update([]))
        return 0, finished
    stale.sort(key=lambda task: -task.size)  # so that no worker ends long after the others
    rows = sum(task.size for task in stale)
    with connect(config.cluster, len(stale), stage.load, stage.make.__module__) as client:
        workers = len(threads(client, config.cluster.resources))
        total = sum(task.size for task in tasks)
        with Monitor(client, stage.name, stage.unit, total, total - rows) as monitor:
            for task in _finish(client, stage, stale, config, monitor.topic):
                monitor.report(str(task.tar), task.size)
                record = retry(partial(read_record, task.tar))
                refusals.add(record.quarantined if record else ())
    retry(lambda: finished.update([task.tar for task in stale]))
    timing = {"seconds": round(time.monotonic() - start, 1), "workers": workers, "made": len(stale)}
    timing |= {"kept": len(tasks) - len(stale), "images": rows}
    retry(lambda: _log(layout.manifests / "stages.json", stage.name, timing))
    return len(stale), finished


def stale_tasks(
    stage: str, tasks: Sequence[Task], finished: FinishedShards, refusals: Refusals, any_code: bool
) -> list[Task]:
    """The tasks whose shards have to be made; `refusals` counts what the other shards refused.

    A shard is up to date if it was made from the task's inputs and, unless `any_code`, by its code, and no
    source of it was refused as `CHANGED`.

    Raises:
        UserError: too many sources are refused.
    """
    stale = []
    other_code = 0
    for task in tasks:
        shard = finished.shards.get(task.tar.name)
        changed = shard is not None and any(row["reason"] == CHANGED for row in shard.quarantined)
        if shard is None or changed or shard.made_from.get("inputs") != task.inputs:
            stale.append(task)
            continue
        is_current = shard.made_from.get("code") == task.code
        other_code += not is_current
        if is_current or any_code:
            refusals.add(shard.quarantined)
        else:
            stale.append(task)
    if other_code:
        verdict = "kept" if any_code else "made again; --any-code keeps them"
        print(f"{stage}: {other_code:,} shards that other code made are {verdict}")
    return stale


def _log(path: Address, stage: str, timing: dict[str, float]) -> None:
    """Replace what the log says of `stage`, its last run with shards to make; people and the card read it."""
    stages: dict[str, Any] = {}
    with suppress(OSError, ValueError, TypeError):
        stages = dict(json.loads(path.read_text(encoding="utf-8")))
    write_text(path, json.dumps(stages | {stage: timing}, indent=2, sort_keys=True) + "\n")


def _finish(
    client: Client, stage: ShardStage[Task], stale: Sequence[Task], config: Config, topic: str
) -> Iterator[Task]:
    """Make the shards and yield each that is finished; suspected ones come last, one at a time."""
    suspected = []
    backoff = Backoff(config.stream.retry_minutes)
    while stale:
        unanswered = list[tuple[Task, BaseException]]()
        for task, future in map_bounded(client, partial(_make, stage, topic), stale, config.cluster):
            error = future.exception()
            if isinstance(error, KilledWorker):
                suspected.append(task)
            elif error is None:
                yield task
            elif is_transient(error):
                unanswered.append((task, error))
            else:
                raise _described(stage, task, error) from error
        if unanswered:
            if len(unanswered) < len(stale):
                backoff = Backoff(config.stream.retry_minutes)
            task, error = unanswered[0]
            problem = f"{stage.name}: {len(unanswered):,} shards cannot be made, such as {task.tar}: {error}"
            advice = "all others are finished, and the same command makes these"
            backoff.wait(problem, UserError(f"{problem}; {advice}"))
        stale = [task for task, _ in unanswered]
    for task in suspected:
        print(
            f"{stage.name}: workers died while they made {task.tar}; looking for the source that ends them",
            file=sys.stderr,
        )
        _isolate(client, stage, task, config.cluster, topic)
        yield task


def _described(stage: ShardStage[Any], task: ShardTask, error: BaseException) -> Exception:
    if isinstance(error, UserError):
        return UserError(f"{stage.name}, {task.tar}: {error}")
    if isinstance(error, OSError):
        return UserError(f"{stage.name}, {task.tar}: {error.strerror or error}")
    return RuntimeError(f"{stage.name} failed at {task.tar}: {type(error).__name__}: {error}")


def _make(stage: ShardStage[Task], topic: str, task: Task, excluded: frozenset[str] = frozenset()) -> None:
    """The Dask task: make one shard and report its progress."""
    settle()
    worker = get_worker()
    done, reported = 0, time.monotonic()

    def report() -> None:
        worker.log_event(topic, (str(task.tar), done, worker.address))

    def advance(count: int) -> None:
        nonlocal done, reported
        done += count
        if time.monotonic() - reported >= 0.5:  # a report costs the driver as much as a photo takes
            reported = time.monotonic()
            report()

    stage.make(task, excluded, advance)
    report()


def _isolate(client: Client, stage: ShardStage[Task], task: Task, cluster: Cluster, topic: str) -> None:
    """Make a suspected shard, without the sources that end their workers."""
    excluded: frozenset[str] = frozenset()
    note = task.tar.with_name(f".{task.tar.name}.probed.partial")
    unclear = 0
    while True:
        note.unlink(missing_ok=True)
        attempt = partial(_probe_and_make, stage, topic, note, excluded)
        [(_, future)] = map_bounded(client, attempt, [task], cluster)
        error = future.exception()
        if error is None:
            return
        if not isinstance(error, KilledWorker):
            raise _described(stage, task, error) from error
        probed = set(_read_note(note))
        if len(probed) == 1 and None not in probed:
            excluded |= {str(probed.pop())}
            continue
        unclear += 1
        if unclear == 3:  # rounds in which they died at different sources
            note.unlink(missing_ok=True)
            raise UserError(
                f"{stage.name}, {task.tar}: the workers keep dying, but not at the same source; "
                "is there enough memory? Fewer workers (cluster.workers) need less"
            )


def _probe_and_make(
    stage: ShardStage[Task], topic: str, note: Address, excluded: frozenset[str], task: Task
) -> None:
    """The Dask task of a suspected shard; `note` lists what each attempt opened last, null if it was all."""
    settle()
    earlier = _read_note(note)
    for source in stage.probe(task, excluded):
        write_text(note, json.dumps([*earlier, source]))
    write_text(note, json.dumps([*earlier, None]))
    _make(stage, topic, task, excluded)
    note.unlink(missing_ok=True)


def _read_note(note: Address) -> list[str | None]:
    return json.loads(note.read_text(encoding="utf-8")) if note.is_file() else []
