"""The processes of one run: alone, or side by side under ``torchrun``.

Every optimisation step has one batch, which is cut into parts, one or more for each
process. What a part holds and what is drawn for it is a function of (seed, step,
part), so N processes compute what one process computes that accumulates N parts.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from training.engine.device import default_device


@dataclass(frozen=True)
class Ranks:
    """One process among the others.

    Attributes:
        rank: the number of this process, from 0; only number 0 writes files and prints.
        world: how many there are.
        device: where it computes.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """Share the gradients of `model` in every backward pass; alone, `model` itself.

        Running batch-norm statistics are those of rank 0; training does not read them.
        """
        if self.world == 1:
            return model
        numbers = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=numbers)

    def synchronise_batch_norm(self, model: nn.Module) -> nn.Module:
        """On several GPUs, take batch-norm statistics over the whole batch, as one GPU would.

        On CPU torch has no such layer, and statistics are taken over each process's part.
        """
        if self.world == 1 or self.device.type != "cuda":
            return model
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)

    def average_gradients(self, model: nn.Module) -> None:
        """Replace all gradients by their mean over the processes; for small models without `wrap`."""
        if self.world > 1:
            for parameter in model.parameters():
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= self.world

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """The mean of each value over the processes, which all must ask at the same time."""
        if self.world == 1:
            return dict(values)
        total = torch.tensor(list(values.values()), dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return dict(zip(values, (total / self.world).tolist(), strict=True))

    def greatest(self, number: int) -> int:
        """The greatest number that any process has; all must ask at the same time."""
        if self.world == 1:
            return number
        found = torch.tensor(number, device=self.device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found.item())


def rank_of_environment() -> int:
    """The number of this process as ``torchrun`` set it; 0 without."""
    return int(os.environ.get("RANK", 0))


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the processes that ``torchrun`` started, over nccl on GPUs and gloo on CPU; leave in the end."""
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world == 1:
        yield Ranks(0, 1, default_device())
        return
    place = default_device()
    if place.type == "cuda":
        place = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(place)
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), place)
    finally:
        dist.destroy_process_group()
