"""Dask: a local cluster or one that is joined, whose workers have loaded the model."""

import asyncio
import logging
import math
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final

import cv2
import dask
import torch
from distributed import Client, LocalCluster, WorkerPlugin, get_worker, wait
from distributed.comm import CommClosedError
from distributed.system import MEMORY_LIMIT
from tornado.ioloop import IOLoop

from common.errors import UserError
from common.fork_server import START_METHOD, start_fork_server
from common.freshness import code_hash
from common.pipeline_config import Cluster
from pipeline.runner.local_workers import PROCESS_BYTES, local_workers

JOIN_SECONDS: Final = 60  # How long a scheduler may take to answer
# How long a joined cluster may take to have its first worker, such as one that scales from zero.
START_MINUTES: Final = 15.0
LOAD_ATTEMPTS: Final = 3  # How often the workers are asked to load a model, if one of them dies meanwhile
# How long a worker that died may take to come back before the others go on without it.
RESTART_SECONDS: Final = 60.0
# Age of a worker at which its nanny, even on a busy machine, has noticed that it runs.
SETTLE_SECONDS: Final = 2.0


class ReadyWorkers(WorkerPlugin):
    """Prepares each worker process once: one thread of torch and of OpenCV, and the model in memory.

    One thread, because models run faster side by side than on shared threads, and because
    the thread count decides in which order floats are summed. A terminal sends Ctrl-C to the
    workers of a local cluster as well; they ignore it, and the driver ends them. Each of them
    sees one GPU, before anything asks CUDA. Workers of a joined cluster must run the code of this process.

    `seen` are the addresses of workers whose nannies are known to have seen them start.
    """

    name = "sspl-faces"

    def __init__(
        self, load: Callable[[], object], config: Cluster, module: str, seen: frozenset[str]
    ) -> None:
        self._load, self._resources, self._seen = load, config.resources, seen
        self._module, self._code = module, code_hash(module) if config.scheduler else None
        self._local = None if config.scheduler else local_workers(config)

    def setup(self, worker: Any) -> None:
        """Load the model, unless this worker gets no tasks; a `UserError` if it runs other code."""
        if self._local:
            if gpus := self._local.gpus:
                os.environ["CUDA_VISIBLE_DEVICES"] = gpus[int(worker.name) % len(gpus)]
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, signal.SIG_IGN)
        if _offers(worker.state.total_resources, self._resources):
            if self._code not in (None, code_hash(self._module)):
                raise UserError(
                    f"the worker {worker.address} runs other code than this process ({self._module} and its "
                    f"imports, or its Python {platform.python_version()}); bring its project folder to the "
                    "same version and start it again"
                )
            torch.set_num_threads(1)
            cv2.setNumThreads(1)
            self._load()
            worker.ready_since = -math.inf if worker.address in self._seen else time.monotonic()


def settle() -> None:
    """Wait, at the start of a task, until the worker's nanny has seen it start.

    Dask does not replace a process that dies while its nanny is still starting it, and the
    retry of a deadly task reaches a new process at once; the run would wait without workers.
    """
    age = time.monotonic() - get_worker().ready_since
    time.sleep(max(0.0, SETTLE_SECONDS - age))


@contextmanager
def connect(
    config: Cluster, tasks: int, load: Callable[[], object], module: str = __name__
) -> Iterator[Client]:
    """A client of the configured cluster, whose workers have all called `load` once.

    A local cluster has `local_workers`, never more than `tasks`. Its workers end with this process, however
    that ends. `module` is what the tasks run; its code must be the same on the workers of a joined cluster.

    Raises:
        UserError: no scheduler answers, no worker offers the resources, one runs other code or fails.
    """
    with ExitStack() as context:
        if config.scheduler:
            client = context.enter_context(_joined(config, context.enter_context(event_loop())))
        else:
            cluster = _SHARED.get() or context.enter_context(_SharedCluster())
            client = cluster.client(config, tasks, module)
        seen = frozenset() if config.scheduler else frozenset(client.scheduler_info(n_workers=-1)["workers"])
        count = len(threads(client, config.resources))
        line = f"{count} workers" if config.scheduler or count == tasks else local_workers(config).line
        print(f"{line}; dashboard: {client.dashboard_link}", flush=True)
        _make_ready(client, ReadyWorkers(load, config, module, seen), config.scheduler)
        try:
            yield client
        finally:
            with suppress(OSError, ValueError):
                client.unregister_worker_plugin(ReadyWorkers.name)


def _make_ready(client: Client, plugin: ReadyWorkers, scheduler: str | None) -> None:
    """Run `plugin` on all workers, and again if one dies meanwhile, for whatever reason."""
    cluster = scheduler or "the local cluster"
    count = len(client.scheduler_info(n_workers=-1)["workers"])
    for attempt in range(LOAD_ATTEMPTS):
        if attempt:
            time.sleep(SETTLE_SECONDS)  # until the scheduler has noticed
            with suppress(TimeoutError):
                client.wait_for_workers(count, timeout=RESTART_SECONDS)
            if not client.scheduler_info(n_workers=-1)["workers"]:
                break
        try:
            client.register_plugin(plugin)
            return
        except UserError:
            raise
        except CommClosedError as error:
            died = error
        except Exception as error:
            raise UserError(
                f"the workers of {cluster} cannot load the model ({type(error).__name__}: {error}); start "
                "them in the project's folder, with its packages"
            ) from error
    raise UserError(
        f"a worker of {cluster} died while it loaded the model; is there enough memory? "
        "Fewer workers (cluster.workers) need less"
    ) from died


class _SharedCluster(ExitStack):
    """A local cluster that several stages may use, until one wants another."""

    _config: Cluster | None = None
    _count = 0

    def client(self, config: Cluster, tasks: int, module: str) -> Client:
        """A client of the cluster, which is started if there is none, or none like this."""
        count = max(1, min(local_workers(config).count, tasks))
        if self._config != config or self._count < count:
            self.close()
            self._client = self.enter_context(_local(config, count, module))
            self._config, self._count = config, count
        return self._client


_SHARED: Final = ContextVar[_SharedCluster | None]("shared", default=None)


@contextmanager
def shared_workers() -> Iterator[None]:
    """Let the stages that run inside share one local cluster, which the first that has work starts."""
    with _SharedCluster() as shared:
        token = _SHARED.set(shared)
        try:
            yield
        finally:
            _SHARED.reset(token)


@contextmanager
def event_loop() -> Iterator[IOLoop]:
    """An event loop in a thread of its own.

    Dask's own raises an AssertionError where a busy machine takes over ten seconds to start the thread.
    """
    started, ended = Future[IOLoop](), asyncio.Event()

    async def run() -> None:
        started.set_result(IOLoop.current())
        await ended.wait()

    thread = threading.Thread(target=asyncio.run, args=[run()], name="event loop", daemon=True)
    thread.start()
    loop = started.result()
    try:
        yield loop
    finally:
        loop.add_callback(ended.set)
        thread.join(60)  # seconds that tasks which are cancelled may take to end


@contextmanager
def _joined(config: Cluster, loop: IOLoop) -> Iterator[Client]:
    try:
        client = Client(config.scheduler, timeout=JOIN_SECONDS, loop=loop)
    except (OSError, TypeError, ValueError) as error:  # TypeError: tls:// without certificates
        raise UserError(f"no Dask scheduler answers at {config.scheduler}: {error}") from error
    with client:
        # A cluster that scales with its load starts no worker before there is a task.
        first = client.submit(no_model, pure=False, resources=config.resources)
        if not threads(client, config.resources):
            wanted = " ".join(f"{name}={amount:g}" for name, amount in (config.resources or {}).items())
            lacking = f"no worker{f' that offers {wanted} (cluster.resources)' if wanted else ''}"
            flag = f" --resources {wanted.replace(' ', ',')}" if wanted else ""
            hint = f"start some with `dask worker {config.scheduler} --nworkers auto --nthreads 1{flag}`"
            print(f"{config.scheduler} has {lacking} yet; waiting, {hint}", file=sys.stderr, flush=True)
            with suppress(TimeoutError):
                wait(first, timeout=60 * START_MINUTES)
            if not threads(client, config.resources):
                raise UserError(f"{config.scheduler} has {lacking} after {START_MINUTES:g} minutes; {hint}")
        yield client


@contextmanager
def _local(config: Cluster, count: int, module: str) -> Iterator[Client]:
    if config.resources:
        raise UserError(
            "cluster.resources chooses among the workers of a joined cluster; name its --scheduler"
        )
    try:
        Path.home()
    except RuntimeError as error:
        raise UserError(
            "this user has no home folder, which Dask's dashboard looks for; set HOME to any folder"
        ) from error
    settings = {
        # How many workers may die over a shard before it is suspected to be the cause.
        "distributed.scheduler.allowed-failures": 1,
        # Dask abandons a nanny whose worker is gone for some seconds, as long as a restart may take.
        "distributed.deploy.lost-worker-timeout": "1 hour",
        # Processes of a busy machine may take long to greet each other.
        "distributed.comm.timeouts.connect": "10 minutes",
        # A paused worker would wait for ever; one that is ended for its memory becomes an error.
        "distributed.worker.memory.pause": False,
        "distributed.worker.multiprocessing-method": START_METHOD,
        # Dask samples each worker's stack 100 times a second, ticks 50 times and reads the machine's load.
        "distributed.worker.profile.enabled": False,
        "distributed.admin.tick.interval": "500ms",
        "distributed.admin.system-monitor.interval": "5s",
    }
    with dask.config.set(settings):
        start_fork_server("distributed", module)
        with (
            event_loop() as loop,
            _ForgivingCluster(
                loop=loop,
                n_workers=count,
                memory_limit=max(MEMORY_LIMIT // count, PROCESS_BYTES),
                threads_per_worker=1,
                processes=True,
                env=dict(os.environ),  # forks have that of the first cluster
                dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client


class _ForgivingCluster(LocalCluster):
    """A local cluster that closes without an error after a worker died before it was known here."""

    def _update_worker_status(self, op: str, msg: Any) -> None:
        # Dask looks up the worker that it removes, and raises its KeyError when the cluster closes.
        if op != "remove" or msg in self.scheduler_info["workers"]:
            super()._update_worker_status(op, msg)


def _offers(offered: Mapping[str, float], wanted: Mapping[str, float] | None) -> bool:
    return all(offered.get(name, 0) >= amount for name, amount in (wanted or {}).items())


def threads(client: Client, resources: Mapping[str, float] | None) -> list[int]:
    """How many threads each worker with the resources has; a thread runs one task at a time."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return [worker["nthreads"] for worker in workers if _offers(worker["resources"], resources)]


def no_model() -> None:
    """Loads nothing, for a stage that needs no model."""
