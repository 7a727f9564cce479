"""Photos per second from a folder and from an S3 server that takes its time for each request.

The server is moto's, in a process of its own; it waits before it handles a request. The CPU time is that of
the pipeline's processes alone, without the server, which shares their cores.
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import psutil
from moto.server import DomainDispatcherApplication, create_backend_app
from s3fs import S3FileSystem
from werkzeug.serving import WSGIRequestHandler, make_server

from common.config import Config
from common.layout import Layout
from pipeline.align.run import align
from pipeline.ingest.run import ingest
from pipeline.runner.cluster import connect, no_model, shared_workers

BUCKET: Final = "photos"

STORES: Final = ("folder", "S3", "S3 late")
"""A folder, a server that does not wait, and one that does: the last two differ in the latency alone."""

ROUNDS: Final = 2
"""Of which the best counts, because other jobs disturb the others more."""

WARM_UP: Final = 64
"""Photos of a first round that does not count, in which the workers load the detector."""

Rates = dict[str, dict[str, tuple[float, float]]]
"""By step and store, photos per second and CPU seconds per photo."""


def measure(config: Config, photos: Path, milliseconds: float, folder: Path) -> Rates:
    """Rates of hashing, and of alignment without and with detection, from `photos` and from the server.

    Args:
        config: of the pipeline.
        photos: a flat folder.
        milliseconds: that the server waits.
        folder: for the outputs.
    """
    count = sum(1 for _ in photos.iterdir())
    rates: Rates = {}
    with slow_store() as (server, delay), shared_workers():
        files = S3FileSystem()
        files.mkdir(BUCKET)
        files.put(f"{photos}/", f"{BUCKET}/", recursive=True)
        with connect(config.cluster, count, no_model):  # starts the workers, which the stages share
            pass
        for _, stage in _steps(config, str(photos), WARM_UP):
            stage(Layout.at(folder / "warm-up"))
        for turn in range(ROUNDS):
            for store, wait in zip(STORES, (0.0, 0.0, milliseconds), strict=True):
                delay.value = wait
                address = str(photos) if store == "folder" else f"s3://{BUCKET}"
                layout = Layout.at(folder / f"{store}-{turn}")
                for step, stage in _steps(config, address, None):
                    started, used = time.monotonic(), _cpu_seconds(server)
                    stage(layout)
                    seconds, used = time.monotonic() - started, _cpu_seconds(server) - used
                    best = rates.setdefault(step, {})
                    best[store] = max(best.get(store, (0.0, 0.0)), (count / seconds, used / count))
    return rates


def _steps(
    config: Config, address: str, limit: int | None
) -> Iterable[tuple[str, Callable[[Layout], object]]]:
    data = config.data.model_copy(update={"input": address})
    limited = config.ingest.model_copy(update={"limit": limit})
    own = config.model_copy(update={"data": data, "ingest": limited})
    yield "hash", lambda layout: ingest(own, layout)
    for mode in ("none", "detect"):
        of_mode = own.model_copy(update={"align": own.align.model_copy(update={"mode": mode})})
        yield f"align ({mode})", lambda layout, of_mode=of_mode: align(of_mode, layout)  # type: ignore[misc]


def _cpu_seconds(server: int) -> float:
    """CPU seconds of this process and its children so far, save for the server."""
    own = psutil.Process()
    processes = [own, *(child for child in own.children(recursive=True) if child.pid != server)]
    return sum(sum(process.cpu_times()[:2]) for process in processes)


@contextmanager
def slow_store() -> Iterator[tuple[int, Any]]:
    """An S3 server on the loopback, named to all processes by the environment.

    Yields its process id, and the shared number of milliseconds that it waits.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    delay = context.Value("d", 0.0)
    process = context.Process(target=_serve, args=(delay, there), daemon=True)
    process.start()
    own = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{here.recv()}", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ |= {**own, "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
    try:
        yield int(process.pid or 0), delay
    finally:
        process.terminate()
        process.join()


class _KeepAlive(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_request(self, *arguments: object) -> None:
        pass


def _serve(delay: Any, port: Connection) -> None:
    store = DomainDispatcherApplication(create_backend_app)

    def late(environ: dict[str, Any], start_response: Any) -> Any:
        time.sleep(delay.value / 1000)
        return store(environ, start_response)

    server = make_server("127.0.0.1", 0, late, threaded=True, request_handler=_KeepAlive)
    port.send(server.server_port)
    server.serve_forever()
