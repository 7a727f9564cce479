"""How many processes a local cluster has, and which GPU each of them sees."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from dask.system import CPU_COUNT
from distributed.system import MEMORY_LIMIT

from common.pipeline_config import Cluster

PROCESS_BYTES: Final = 1_100_000_000
"""Resident memory of a worker, and of the driver: imports, networks, a photo and a batch of faces.

Of two workers with the detector and the default parser in int8, the larger one had 1,061 MB, of which 619
are its own and the rest is shared with the process that it was forked from (AMD EPYC Zen 4).
"""


@dataclass(frozen=True)
class LocalWorkers:
    """The processes of a local cluster that has tasks for all of them."""

    count: int  # of processes
    gpus: tuple[str, ...]  # values of ``CUDA_VISIBLE_DEVICES`` that they share evenly; empty without GPUs
    wanted: int  # how many there would be with enough memory

    @property
    def line(self) -> str:
        """A description for people, such as ``2 workers x 1 thread``."""
        gpus = f" on {len(self.gpus)} GPUs" if self.gpus else ""
        limit = f"; {MEMORY_LIMIT / 1e9:.1f} GB of memory do not allow {self.wanted}"
        return f"{self.count} workers{gpus} x 1 thread{limit if self.count < self.wanted else ''}"


def local_workers(config: Cluster) -> LocalWorkers:
    """One process per core, or ``processes_per_gpu`` on each GPU, as far as the memory allows.

    Cores and memory are those that the process may use, by its affinity and its control group.
    """
    gpus = visible_gpus(torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    wanted = config.workers or (len(gpus) * config.processes_per_gpu if gpus else CPU_COUNT)
    allowed = int(MEMORY_LIMIT // PROCESS_BYTES) - 1
    return LocalWorkers(max(1, min(wanted, allowed)), tuple(gpus), wanted)


def visible_gpus(count: int, visible: str | None) -> Sequence[str]:
    """A name for each of `count` GPUs: its entry in ``CUDA_VISIBLE_DEVICES``, or its number."""
    named = [name.strip() for name in visible.split(",")] if visible else list(map(str, range(count)))
    return named[:count]
