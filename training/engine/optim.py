"""What both stages need around an optimisation step: device, seeds, rate and the finite-loss check."""

import hashlib
import math
import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.config import Optimizer
from common.errors import UserError


def device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def set_seed(seed: int) -> torch.Generator:
    """Seed every source of randomness; return the CPU generator of all label and augmentation draws."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


def seed_part(seed: int, step: int, part: int) -> torch.Generator:
    """The CPU generator of all draws for one part of one step's batch; dropout is seeded alike.

    Since nothing else is drawn from, a run can be taken up at any step by its number alone.
    """
    number = int.from_bytes(hashlib.sha256(f"{seed} {step} {part}".encode()).digest()[:8], "big")
    torch.manual_seed(number)
    return torch.Generator().manual_seed(number)


def rate_factor(config: Optimizer, step: int, steps: int) -> float:
    """Factor on the learning rate at `step` of `steps`.

    The published schedules are given by epoch (80 in stage 1, 70 in stage 2); here they
    are stretched over the run.
    """
    if config.schedule == "pretrain_paper":
        epoch = 80 * step // steps
        return (epoch + 1) / 7 if epoch < 7 else 0.1 if epoch <= 10 else 0.01
    if config.schedule == "finetune_paper":
        epoch = 70 * step // steps
        if epoch < 7:
            return 1.5 * (epoch + 1) / 7
        return 1.5 if epoch <= 15 else 0.5 if epoch <= 35 else 0.15 if epoch <= 50 else 0.01
    warmup = max(1, round(config.warmup * steps))
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def adam(network: nn.Module, config: Optimizer) -> torch.optim.Adam:
    """Adam over all parameters, betas 0.9 and 0.999, in one pass over each."""
    rate, decay = config.learning_rate, config.weight_decay
    return torch.optim.Adam(network.parameters(), lr=rate, weight_decay=decay, fused=True)


def adam_by_part(parts: Iterable[tuple[list[nn.Parameter], float]], weight_decay: float) -> torch.optim.Adam:
    """Adam with a learning rate for each part; parameters of a part with rate 0 are frozen."""
    groups: list[dict[str, Any]] = []
    for parameters, rate in parts:
        for parameter in parameters:
            parameter.requires_grad_(rate > 0)
        if parameters and rate > 0:
            groups.append({"params": parameters, "lr": rate, "base": rate})
    return torch.optim.Adam(groups, weight_decay=weight_decay, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, config: Optimizer, step: int, steps: int) -> None:
    """Set the learning rate of all parameter groups for `step` of `steps`.

    A group's own rate is ``base``; without it the group has the configured one.
    """
    for group in optimizer.param_groups:
        group["lr"] = group.get("base", config.learning_rate) * rate_factor(config, step, steps)


def check_finite(loss: Tensor, step: int, keys: list[str]) -> None:
    """Stop a run whose loss is no number.

    Raises:
        UserError: names the step and the samples of the batch.
    """
    if not torch.isfinite(loss):
        raise UserError(
            f"the loss is {loss.item()} at step {step}; lower the learning rate, or look at these samples: "
            + ", ".join(keys)
        )
