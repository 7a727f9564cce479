"""The factor on the learning rate at each step."""

from contract.config import Optimizer

import math


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
