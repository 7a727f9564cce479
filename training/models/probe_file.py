"""The files of probes: tensors, names and the configuration, as `training.engine.checkpoint` writes them."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from common.config import Config
from common.errors import UserError
from training.engine import checkpoint
from training.models.probe import Probe
from training.models.region_probe import RegionProbe

ARRAYS: Final = frozenset(
    {"mean", "scale", "weights", "biases", "references"}
    | {"first_weights", "first_biases", "prediction_mean", "prediction_scale", "reference_predictions"}
)
"""What a probe's file holds as tensors, or in earlier versions as lists."""


def save_probe(path: Path, probe: Probe, config: Config) -> None:
    """Write a probe with the configuration."""
    content = {
        name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        for name, value in asdict(probe).items()
    }
    checkpoint.save(path, {"probe": content, "config": config.model_dump(mode="json")})


def is_probe(path: Path) -> bool:
    """Whether fine-tuning wrote a probe rather than a network's classifier.

    Raises:
        UserError: the file is missing or of neither kind.
    """
    return "probe" in _load(path)


def read_probe(path: Path) -> Probe:
    """Read what `save_probe` wrote.

    Raises:
        UserError: the file is missing or no probe.
    """
    content = _load(path)
    if "probe" not in content:
        raise UserError(f"{path}: not a probe; `python -m training.probe` writes one")
    values: dict[str, Any] = {
        name: np.asarray(value) if name in ARRAYS else value for name, value in content["probe"].items()
    }
    if values["features"] == "regions" and "first_weights" not in values:
        raise UserError(f"{path}: a region probe of an earlier version; fit it again")
    return RegionProbe(**values) if values["features"] == "regions" else Probe(**values)


def _load(path: Path) -> dict[str, Any]:
    return checkpoint.load(path, made_by="python -m training.probe")
