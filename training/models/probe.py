"""The linear probe: a linear classifier of features that the shards hold already."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from training.data.loader import Batch
from training.models.classifier import Classifier
from training.models.stored_features import Blocks, Part, features_of, members_of


@dataclass(kw_only=True, eq=False)
class Probe(Classifier, kind="probe"):
    """Linear logits of standardised features.

    Attributes:
        blocks: what it reads, see `training.models.stored_features`.
        parts: of its features, see `training.models.stored_features.Part`.
        mean, scale: float64 (D,); features are standardised to (x - mean) * scale.
        weights: float64 (D, A). biases: float64 (A,).
    """

    blocks: Blocks
    parts: tuple[Part, ...]
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    weights: NDArray[np.float64]
    biases: NDArray[np.float64]

    @property
    def members(self) -> frozenset[str]:
        """The members that its blocks are made from."""
        return members_of(self.blocks)

    def logits(self, batch: Batch) -> NDArray[np.float32]:
        """Logits, float32 (N, A), of a batch.

        Raises:
            UserError: the shards hold features of another length than those that it was fitted on.
        """
        features = features_of(batch, self.blocks)
        if features.shape[1:] != self.mean.shape:
            raise UserError(
                f"the shards have {features.shape[1]} features per face, but the classifier was fitted on "
                f"{len(self.mean)}; fit it again"
            )
        return self.logits_of((features - self.mean) * self.scale).astype(np.float32)

    def logits_of(self, standardised: NDArray[np.float64]) -> NDArray[np.float64]:
        """Logits, float64 (N, A), of standardised features, float64 (N, D)."""
        return standardised @ self.weights + self.biases
