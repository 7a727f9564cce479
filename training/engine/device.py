"""Where, in which number format and from which random numbers networks compute."""

import hashlib
import random
from typing import TextIO

import numpy as np
import torch

from common.hardware import announce, hardware
from common.section import Precision


def default_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return hardware().device


def announce_training(
    stage: str, precision: Precision, processes: int = 1, stream: TextIO | None = None
) -> None:
    """Print what a stage of training computes on; see `announce`."""
    workers = f"{processes} x {torch.get_num_threads()} threads"
    announce(stage, precision, hardware().dtype(precision), workers, stream)


def numerics(precision: Precision) -> str:
    """The class of hardware and the number format that training computes in, for its records."""
    here = hardware()
    return f"{here.name}, {here.dtype(precision)}"


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The context in which a forward pass runs: fewer bits where that is safe, or float32 throughout."""
    dtype = hardware().dtype(precision)
    return torch.autocast(device.type, getattr(torch, dtype), enabled=dtype != "float32")


def gradient_scaler(device: torch.device, precision: Precision) -> torch.amp.GradScaler:
    """Scales losses so that gradients in float16 do not vanish; does nothing in other formats."""
    return torch.amp.GradScaler(device.type, enabled=hardware().dtype(precision) == "float16")


def set_seed(seed: int) -> None:
    """Seed the global generators of Python, NumPy and PyTorch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def keyed_generator(*key: int | str) -> torch.Generator:
    """A CPU generator that depends on `key` alone, such as (seed, step, micro-batch, task).

    Since nothing else is random, a run can be resumed at any step from the step's number alone.
    """
    return torch.Generator().manual_seed(_hash(*key))


def seed_micro_batch(seed: int, step: int, micro_batch: int) -> None:
    """Seed what a network draws itself in one micro-batch of a step, such as dropout."""
    torch.manual_seed(_hash(seed, step, micro_batch))


def _hash(*key: int | str) -> int:
    text = " ".join(map(str, key))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
