"""Checkpoints: written atomically, the latest few of a run kept, loaded without executing any code."""

import json
import pickle
import struct
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any, Final

import torch

from common.errors import UserError
from common.files import replacing
from common.storage import Address

UNREADABLE: Final = (RuntimeError, ValueError, EOFError, OSError, struct.error, pickle.UnpicklingError)
"""What torch.load raises for a file that it did not write, or that is truncated."""


def save(path: Address, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, and containers of them) atomically."""
    with replacing(path) as temporary:
        torch.save(state, temporary)


def load(path: Address, made_by: str = "python -m training.run --stage pretrain") -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Args:
        path: the file.
        made_by: the command that writes it, for the error message.

    Raises:
        UserError: the file is missing or not a checkpoint.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; `{made_by}` writes it")
    try:
        with path.open("rb") as stream:
            return torch.load(stream, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise UserError(
            f"{path}: not a readable checkpoint; delete it and train again ({error})"[:300]
        ) from error


def step_path(folder: Address, step: int) -> Address:
    """Where the checkpoint of a step lies; names sort like steps."""
    return folder / f"step-{step:09d}.pt"


def save_step(folder: Address, step: int, keep: int, state: dict[str, Any]) -> None:
    """Save the checkpoint of `step`, then delete all but the latest `keep`."""
    save(step_path(folder, step), {"step": step, **state})
    for path in _paths(folder)[keep:]:
        path.unlink()


def latest(folder: Address, title: str, notices: bool = True) -> tuple[Address, dict[str, Any]] | None:
    """The latest checkpoint of a run that can be read; None if there is none.

    One that cannot be read, such as a file that a full disk truncated, is skipped; with `notices` a line
    is printed that names it and, as `title`, the run.
    """
    for path in _paths(folder):
        try:
            return path, load(path)
        except UserError as error:
            if notices:
                print(f"{title}: skipped {error}")
    return None


def set_aside(folder: Path) -> Path:
    """Rename the folder of a run's checkpoints to the first unused of ``NAME-1``, ``NAME-2``..."""
    names = (folder.with_name(f"{folder.name}-{number}") for number in count(1))
    return folder.rename(next(name for name in names if not name.exists()))


def clear(folder: Address) -> None:
    """Delete the checkpoints of a run."""
    for path in _paths(folder):
        path.unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def differences(old: Mapping[str, Any], new: Mapping[str, Any], within: str = "") -> list[str]:
    """What differs between two nested mappings, such as ``pretrain.batch_size: 64 -> 32``, in key order."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += differences(before, after, f"{within}{key}.")
        elif before != after:
            values = (
                json.dumps(value) if key in side else "none" for value, side in ((before, old), (after, new))
            )
            lines.append(f"{within}{key}: {' -> '.join(values)}")
    return lines


def _paths(folder: Address) -> list[Address]:
    return sorted(folder.glob("step-*.pt"), reverse=True)
