"""The event loop that Dask's clusters and clients of this process run on."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Thread
from typing import Final

from tornado.ioloop import IOLoop

CLOSE_SECONDS: Final = 60.0
"""How long tasks that are cancelled may take to end."""


@contextmanager
def event_loop() -> Iterator[IOLoop]:
    """An event loop in a thread of its own.

    Dask's own way to start one raises an AssertionError where a busy machine takes more than ten seconds to
    start the thread.
    """
    started = Future[IOLoop]()
    ended = asyncio.Event()

    async def run() -> None:
        started.set_result(IOLoop.current())
        await ended.wait()

    thread = Thread(target=asyncio.run, args=[run()], name="event loop", daemon=True)
    thread.start()
    loop = started.result()
    try:
        yield loop
    finally:
        loop.add_callback(ended.set)
        thread.join(CLOSE_SECONDS)
