"""Workers whose tasks make no progress: they are named and restarted, and the scheduler tries again."""

import sys
import time
from contextlib import suppress
from threading import Event, Thread
from typing import Final, Self

from distributed import Client

STALLED_MINUTES: Final = 30.0
"""Without progress after which a worker that has tasks is restarted."""

LOOKS: Final = 20
"""How often workers are looked at within this time."""

RESTART_SECONDS: Final = 60
"""How long a worker may take to end."""


class StalledWorkers:
    """Watches the workers of a cluster while tasks run, as a context.

    Progress is what tasks report, and a change of what a worker has to do.

    Args:
        client: of the cluster.
        stage: named in the message.
    """

    def __init__(self, client: Client, stage: str) -> None:
        self._client, self._stage = client, stage
        self._tasks: dict[str, frozenset[str]] = {}
        self._progress: dict[str, float] = {}
        self._ended = Event()
        self._thread = Thread(target=self._watch, name="stalled-workers", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def progress(self, worker: str) -> None:
        """A task of the worker with this address has done something."""
        self._progress[worker] = time.monotonic()

    def _watch(self) -> None:
        while not self._ended.wait(60 * STALLED_MINUTES / LOOKS):
            with suppress(OSError, ValueError):  # the scheduler has gone, which the run notices by itself
                stalled = self._stalled()
                if stalled and not self._ended.is_set():
                    self._restart(stalled)

    def _stalled(self) -> list[str]:
        present = {worker: frozenset(map(str, keys)) for worker, keys in self._client.processing().items()}
        now = time.monotonic()
        for worker, tasks in present.items():
            if tasks != self._tasks.get(worker):
                self._progress[worker] = now
        self._tasks = present
        return [
            worker
            for worker, tasks in present.items()
            if tasks and now - self._progress[worker] > 60 * STALLED_MINUTES
        ]

    def _restart(self, workers: list[str]) -> None:
        print(
            f"{self._stage}: no progress for {STALLED_MINUTES:g} minutes on "
            f"{', '.join(workers)}; restarting, and making their shards again",
            file=sys.stderr,
            flush=True,
        )
        for worker in workers:
            self._progress[worker] = time.monotonic()
        with suppress(TimeoutError):
            self._client.restart_workers(workers, timeout=RESTART_SECONDS)
