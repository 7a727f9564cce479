"""The processes of one run: a single one, or several under ``torchrun``.

The batch of every optimisation step is split into micro-batches, one or more for each process. The
samples of a micro-batch and its random numbers are a function of (seed, step, micro-batch), so N
processes compute what one process computes that accumulates gradients over N micro-batches.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from common.errors import UserError
from common.hardware import hardware


@dataclass(frozen=True)
class Ranks:
    """One process among the others: its number from 0, how many there are, and its device."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """`model` with its gradients averaged over the processes, if several, in every backward pass.

        Running batch-norm statistics are those of rank 0; training does not read them.
        """
        if self.world == 1:
            return model
        indices = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=indices)

    def unshared(self, forward: nn.Module) -> AbstractContextManager[None]:
        """A context of backward passes that share no gradients: of the micro-batches before a step's last."""
        return forward.no_sync() if isinstance(forward, DistributedDataParallel) else nullcontext()

    def synchronise_batch_norm(self, model: nn.Module) -> nn.Module:
        """On several GPUs, compute batch-norm statistics over the whole batch, as one GPU would.

        PyTorch has no such layer for the CPU, where statistics are those of each micro-batch.
        """
        if self.world == 1 or self.device.type != "cuda":
            return model
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)

    def average_gradients(self, model: nn.Module) -> None:
        """Replace all gradients by their mean over the processes.

        For small models that are not worth what `wrap` does: overlapping messages with the computation.
        """
        for parameter in model.parameters() if self.world > 1 else ():
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= self.world

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """The mean of each value over the processes, all of which must call this at the same time."""
        if self.world == 1:
            return dict(values)
        total = torch.tensor(list(values.values()), dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return dict(zip(values, (total / self.world).tolist(), strict=True))

    def maximum(self, number: int) -> int:
        """The largest `number` of any process; all must call this at the same time.

        It goes over gloo, so it neither waits for a GPU nor hangs if another process has ended.
        """
        if self.world == 1:
            return number
        largest = torch.tensor(number)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest.item())

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """An error in this context of one process is one in all, so that none waits for it in vain.

        Raises:
            UserError: another process failed.
        """
        failure = None
        try:
            yield
        except Exception as error:
            failure = error
        if self.maximum(failure is not None):
            raise failure or UserError("another process failed; see its message")

    def broadcast(self, value: Any) -> Any:
        """The first process's `value`, for all of them; all must call this at the same time."""
        values = [value]
        if self.world > 1:
            dist.broadcast_object_list(values, device=torch.device("cpu"))
        return values[0]

    def gathered(self, value: Any) -> list[Any]:
        """The `value` of each process, in their order; all must call this at the same time."""
        values = [value] * self.world
        if self.world > 1:
            dist.all_gather_object(values, value)
        return values


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the processes that ``torchrun`` started, over nccl (GPUs) and gloo (CPUs); leave at exit.

    Within the context, further ones are of the same processes.

    Raises:
        UserError: variables of ``torchrun`` are missing in the environment, or another process ended.
    """
    world, device = int(os.environ.get("WORLD_SIZE") or 1), hardware().device
    torch.backends.cudnn.benchmark = True  # all batches have one size
    if world == 1:
        yield Ranks(0, 1, device)
        return
    needed = ["RANK", "MASTER_ADDR", "MASTER_PORT", *(["LOCAL_RANK"] if device.type == "cuda" else [])]
    if missing := [name for name in needed if name not in os.environ]:
        raise UserError(
            f"the environment has WORLD_SIZE={world} but no {', '.join(missing)}; start the processes with "
            "torchrun, or `unset WORLD_SIZE` for a single one"
        )
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    elif device.type == "mps":
        device = torch.device("cpu")  # gloo sends no tensors of Apple's GPUs
    outermost = not dist.is_initialized()
    if outermost:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), device)
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise UserError(
                "another process of this run has ended, so this one stops; the same command continues from "
                "the last checkpoint"
            ) from error
        raise
    finally:
        if outermost:
            dist.destroy_process_group()
