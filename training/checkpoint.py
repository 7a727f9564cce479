"""Checkpoints: whole or not at all, loaded without running any code."""

import pickle
from pathlib import Path
from typing import Any

import torch

from contract.errors import UserError
from contract.files import replacing


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, and containers of them) atomically."""
    with replacing(path) as temporary:
        torch.save(state, temporary)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        UserError: the file is missing or no checkpoint.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; `python -m training.run --stage pretrain` makes it")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError) as error:
        raise UserError(
            f"{path}: no readable checkpoint; delete it and train again ({error})"[:300]
        ) from error
