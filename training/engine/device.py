"""Where and in which number format networks compute."""

from typing import TextIO

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
