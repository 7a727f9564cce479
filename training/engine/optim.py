"""Adam, its learning-rate schedules, the check that a loss is finite, and L-BFGS for small problems."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.config import Schedule
from common.errors import UserError

# Groups of parameters, each with its learning rate before the schedule.
ParameterGroups = Sequence[tuple[list[nn.Parameter], float]]


def rate_factor(schedule: Schedule, step: int, steps: int) -> float:
    """The factor on the learning rate at `step` of `steps`.

    Published schedules, by epoch (80 in stage 1, 70 in stage 2), are stretched. Others: a tenth is warm-up.
    """
    if schedule == "pretrain_paper":
        epoch = 80 * step // steps
        return (epoch + 1) / 7 if epoch < 7 else 0.1 if epoch <= 10 else 0.01
    if schedule == "finetune_paper":
        epoch = 70 * step // steps
        if epoch < 7:
            return 1.5 * (epoch + 1) / 7
        return 1.5 if epoch <= 15 else 0.5 if epoch <= 35 else 0.15 if epoch <= 50 else 0.01
    warmup = max(1, round(0.1 * steps))
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def adam(groups: ParameterGroups, weight_decay: float) -> torch.optim.Adam:
    """Adam with betas 0.9 and 0.999, as one fused kernel, and with a learning rate per group of parameters.

    A group whose rate is 0 is frozen.
    """
    described: list[dict[str, Any]] = []
    for parameters, rate in groups:
        if rate == 0:
            for parameter in parameters:
                parameter.requires_grad_(False)
        elif parameters:
            described.append({"params": parameters, "lr": rate, "base": rate})
    return torch.optim.Adam(described, weight_decay=weight_decay, fused=True)


def minimise(
    variables: list[Tensor], loss: Callable[[], Tensor], iterations: int, tolerance: float = 1e-9
) -> None:
    """Change `variables`, which require gradients, so that `loss` is least.

    L-BFGS ends after as many `iterations`, or when the loss changes by less than `tolerance`.
    """
    optimizer = torch.optim.LBFGS(
        variables, max_iter=iterations, tolerance_change=tolerance, line_search_fn="strong_wolfe"
    )

    def objective() -> float:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value.item()

    optimizer.step(objective)


class LossCheck:
    """Losses of steps, left on their device until `check` reads them, so that no step waits for its value."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys, self.last = keys, math.nan  # the latest loss that was read
        self._unread: list[tuple[Tensor, int, Tensor]] = []

    def __str__(self) -> str:
        """The latest loss that was read, for a progress display; empty before the first."""
        return "" if math.isnan(self.last) else f"loss {self.last:.3f}"

    def add(self, loss: Tensor, step: int, indices: Tensor) -> None:
        """Keep the loss, a scalar, of the samples at `indices`, int64 (B,) on the CPU."""
        self._unread.append((loss.detach(), step, indices))

    def check(self) -> None:
        """Read the losses that were added since the last time, in one transfer.

        Raises:
            UserError: one is not finite; names the first such step and its samples.
        """
        unread, self._unread = self._unread, []
        if not unread:
            return
        losses = torch.stack([loss for loss, _, _ in unread]).tolist()
        for value, (_, step, indices) in zip(losses, unread, strict=True):
            if not math.isfinite(value):
                raise UserError(
                    f"the loss is {value} at step {step}; lower the learning rate, or look at these samples: "
                    + ", ".join(self.keys[index] for index in indices.tolist())
                )
            self.last = value
