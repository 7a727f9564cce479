"""How a benchmark runs, and how fast several processes do the same work at the same time."""

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from typing import Any

import torch

from common import command
from common.hardware import hardware

Prepare = Callable[..., Callable[[], None]]
"""Loads what the work needs, warms up, and returns the work. Importable by name, since processes spawn."""


def processor() -> str:
    """The processor's own name, for figures that are compared."""
    return str(torch.cpu.get_capabilities().get("cpu_name", "unknown processor"))


def run(main: Callable[[], None]) -> None:
    """Run a benchmark's command, after a line that says which processor its figures are of."""
    print(f"on {processor()} ({hardware().name}):", flush=True)
    command.run(main)


def parallel_rate(prepare: Prepare, arguments: tuple[Any, ...], items: int, workers: int) -> float:
    """Items per second over `workers` processes, each of which does all `items` itself.

    All processes start their work at the same moment, after every one of them is prepared.

    Args:
        prepare: called with `arguments` in each process; its time does not count.
        arguments: picklable.
        items: how many items the work processes.
        workers: number of processes.
    """
    context = multiprocessing.get_context("spawn")
    ready, rates = context.Barrier(workers), context.Queue()
    processes = [
        context.Process(target=_measure, args=(prepare, arguments, items, ready, rates))
        for _ in range(workers)
    ]
    for process in processes:
        process.start()
    total = sum(rates.get() for _ in processes)
    for process in processes:
        process.join()
    return total


def _measure(
    prepare: Prepare, arguments: tuple[Any, ...], items: int, ready: Barrier, rates: "Queue[float]"
) -> None:
    work = prepare(*arguments)
    ready.wait()
    started = time.monotonic()
    work()
    rates.put(items / (time.monotonic() - started))
