"""What workers report while they make shards: progress is shown, and workers without any are restarted."""

import sys
import threading
import time
import uuid
from contextlib import suppress
from typing import Final, Self

from distributed import Client

from common.progress import progress

STALLED_MINUTES: Final = 30.0  # Without progress after which a worker that has tasks is restarted


class Monitor:
    """Follows the tasks of a stage, as a context; correct even when a shard begins again.

    Progress is what tasks report under `topic`, and a change of what a worker has to do. The scheduler gives
    the tasks of a worker that is restarted to others.

    `unit` is the plural name of the rows, of which there are `total`, and `done` by an earlier run.
    """

    def __init__(self, client: Client, stage: str, unit: str, total: int, done: int) -> None:
        self.topic = f"{stage}-{uuid.uuid4().hex}"
        self._client, self._stage = client, stage
        self._bar = progress(stage, total, unit, done)
        self._rows: dict[str, int] = {}
        self._tasks: dict[str, frozenset[str]] = {}
        self._progress: dict[str, float] = {}
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="monitor", daemon=True)

    def __enter__(self) -> Self:
        self._client.subscribe_topic(self.topic, lambda event: self.report(*event[1]))
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        with suppress(OSError):
            self._client.unsubscribe_topic(self.topic)
        self._bar.close()

    def report(self, shard: str, rows: int, worker: str | None = None) -> None:
        """So many rows of a shard are done, by the worker with this address."""
        if worker is not None:
            self._progress[worker] = time.monotonic()
        with self._lock:
            self._bar.update(rows - self._rows.get(shard, 0))
            self._rows[shard] = rows

    def _watch(self) -> None:
        while not self._ended.wait(60 * STALLED_MINUTES / 20):
            # The scheduler may have gone, which the run notices by itself.
            with suppress(OSError, ValueError):
                self._restart_stalled()

    def _restart_stalled(self) -> None:
        present = {worker: frozenset(map(str, keys)) for worker, keys in self._client.processing().items()}
        now = time.monotonic()
        changed = (worker for worker, tasks in present.items() if tasks != self._tasks.get(worker))
        self._progress |= dict.fromkeys(changed, now)
        self._tasks = present
        limit = now - 60 * STALLED_MINUTES
        stalled = [worker for worker, tasks in present.items() if tasks and self._progress[worker] < limit]
        if stalled and not self._ended.is_set():
            problem = f"{self._stage}: no progress for {STALLED_MINUTES:g} minutes on {', '.join(stalled)}"
            print(f"{problem}; restarting, and making their shards again", file=sys.stderr, flush=True)
            self._progress |= dict.fromkeys(stalled, time.monotonic())
            with suppress(TimeoutError):
                self._client.restart_workers(stalled, timeout=60)
