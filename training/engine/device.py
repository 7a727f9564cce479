"""Where, in which number format and from which random numbers networks compute."""

import hashlib
import random
from typing import TextIO

import numpy as np
import torch

from common.hardware import announce, hardware
from common.pipeline_config import Precision


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


def set_seed(seed: int) -> None:
    """Seed the global generators of Python, NumPy and PyTorch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def keyed_generator(*key: int | str) -> torch.Generator:
    """A CPU generator that depends on `key` alone, such as (seed, step, micro-batch, task).

    Since nothing else is random, a run can be resumed at any step from the step's number alone.
    """
    digest = hashlib.sha256(" ".join(map(str, key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))
