"""Where and how precisely networks compute."""

import torch

from common.section import Precision


def default_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The context in which a forward pass runs: bfloat16 where that is safe, or float32 throughout."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
