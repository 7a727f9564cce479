"""The probe: logistic regression on features that the shards hold already, one per attribute."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.cell_targets import merge_cells
from common.config import Config
from common.errors import UserError
from common.pipeline_config import Stream
from training.data.loader import load
from training.data.sampler import sequential_batches
from training.data.samples import Samples
from training.engine import checkpoint

PROBE = "probe"
"""Its name among the initialisations."""

BATCH_SIZE = 256


@dataclass(frozen=True)
class Probe:
    """Linear logits of standardised features.

    Attributes:
        attributes: names, in the order of the logits.
        member: the features: ``pooled.npy`` of the parser, or the class areas of ``parts.npy``.
        mean, scale: float64 (D,); features are standardised to (x - mean) * scale.
        weights: float64 (D, A). biases: float64 (A,).
    """

    attributes: tuple[str, ...]
    member: str
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    weights: NDArray[np.float64]
    biases: NDArray[np.float64]

    def logits(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Logits, float64 (N, A), of features, float64 (N, D)."""
        return (features - self.mean) * self.scale @ self.weights + self.biases

    def probabilities(self, samples: Samples, stream: Stream) -> NDArray[np.float64]:
        """Probabilities, float64 (N, A), of samples whose shards hold the features.

        Raises:
            UserError: they do not, or other ones.
        """
        features = read_features(samples, self.member, stream)
        if features.shape[1:] != self.mean.shape:
            raise UserError(
                f"{samples.root} has {features.shape[1]} features per face, but the probe was fitted on "
                f"{len(self.mean)}; fit it again"
            )
        return 1 / (1 + np.exp(-self.logits(features)))


def read_features(samples: Samples, member: str, stream: Stream) -> NDArray[np.float64]:
    """The features of all samples, float64 (N, D), in their order.

    Of ``parts.npy`` they are the share of each class in each cell of a 6 x 6 grid; of one that 6 does not
    divide, in each stored cell.

    Raises:
        UserError: the shards have no such member.
    """
    rows = []
    for batch in load(samples, sequential_batches(samples, BATCH_SIZE), {member}, 1, stream):
        if member == "pooled.npy":
            rows.append(batch.pooled.double().numpy())
        else:
            counts = batch.cell_counts
            cells = merge_cells(counts, 6) if counts.shape[1] % 6 == 0 else counts
            shares = cells.double() / cells.sum(dim=-1, keepdim=True)
            rows.append(shares.flatten(1).numpy())
    return np.concatenate(rows) if rows else np.empty((0, 0))


def save_probe(path: Path, probe: Probe, config: Config) -> None:
    """Write a probe with the configuration."""
    content = {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in asdict(probe).items()
    }
    checkpoint.save(path, {"probe": content, "config": config.model_dump(mode="json")})


def read_probe(path: Path) -> Probe:
    """Read what `save_probe` wrote.

    Raises:
        UserError: the file is missing or no probe.
    """
    content: dict[str, Any] = checkpoint.load(path, made_by="python -m training.probe")
    if "probe" not in content:
        raise UserError(f"{path}: not a probe; `python -m training.probe` writes one")
    arrays = ("mean", "scale", "weights", "biases")
    return Probe(**content["probe"] | {name: np.array(content["probe"][name]) for name in arrays})
