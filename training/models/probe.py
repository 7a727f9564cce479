"""Probes: classifiers of features that the shards hold already, linear unless they are region probes."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from common.cell_counts import merge_cells
from common.errors import UserError
from common.pipeline_config import Stream
from training.data.loader import Batch, load
from training.data.sampler import sequential_batches
from training.data.samples import Samples
from training.models.region_statistics import region_statistics

PROBE: Final = "probe"
EMBEDDING_PROBE: Final = "embedding_probe"
REGION_PROBE: Final = "region_probe"
PROBES: Final = (PROBE, EMBEDDING_PROBE, REGION_PROBE)
"""Their names among the initialisations."""

EMBEDDING: Final = "embedding.npy"
"""The member with the features of the network that ``parse.features_from`` names."""

FeatureSet = Literal["pooled", "areas", "embedding", "regions"]
"""``pooled``: ``pooled.npy`` of the parser. ``areas``: the share of each class in each cell of a 6 x 6 grid,
or in each stored cell if 6 does not divide them. ``embedding``: `EMBEDDING`. ``regions``: the embedding where
the shards hold it, then one of the first two, then `region_statistics`."""

MEMBERS: Final[dict[FeatureSet, str]] = {
    "pooled": "pooled.npy",
    "areas": "parts.npy",
    "embedding": EMBEDDING,
}
"""The member that features of the whole face are read from."""

BATCH_SIZE: Final = 256


@dataclass(frozen=True)
class Probe:
    """Linear logits of standardised features.

    Attributes:
        attributes: names, in the order of the logits.
        features: what it reads.
        mean, scale: float64 (D,); features are standardised to (x - mean) * scale.
        weights: float64 (D, A). biases: float64 (A,).
    """

    attributes: tuple[str, ...]
    features: FeatureSet
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
        features = read_features(samples, self.features, stream)
        if features.shape[1:] != self.mean.shape:
            raise UserError(
                f"{samples.root} has {features.shape[1]} features per face, but the probe was fitted on "
                f"{len(self.mean)}; fit it again"
            )
        return 1 / (1 + np.exp(-self.logits(features)))


def whole_face_features(samples: Samples) -> FeatureSet:
    """The parser's features if the shards hold them, or else the class areas."""
    return "pooled" if "pooled.npy" in samples.extents else "areas"


def read_features(samples: Samples, features: FeatureSet, stream: Stream) -> NDArray[np.float64]:
    """The features of all samples, float64 (N, D), in their order.

    Raises:
        UserError: the shards do not hold them.
    """
    whole = whole_face_features(samples) if features == "regions" else features
    if whole == "embedding" and EMBEDDING not in samples.extents:
        raise UserError(
            f"{samples.root} has no {EMBEDDING}; parse the faces again with a network, such as by "
            "`python -m pipeline.parse --from OUT --output NEW --set parse.features_from=NETWORK.onnx`"
        )
    members = {MEMBERS[whole]}
    if features == "regions":
        members |= {"jpg", "mask.png"} | {EMBEDDING} & samples.extents.keys()
    rows = []
    for batch in load(samples, sequential_batches(samples, BATCH_SIZE), members, 1, stream):
        blocks = [batch.embedding.double().numpy()] if len(batch.embedding) else []
        if whole != "embedding":
            blocks.append(batch.pooled.double().numpy() if whole == "pooled" else _areas(batch))
        if features == "regions":
            blocks.append(region_statistics(batch.images, batch.masks).reshape(len(blocks[0]), -1))
        rows.append(np.concatenate(blocks, axis=1))
    return np.concatenate(rows) if rows else np.empty((0, 0))


def _areas(batch: Batch) -> NDArray[np.float64]:
    counts = batch.cell_counts
    cells = merge_cells(counts, 6) if counts.shape[1] % 6 == 0 else counts
    shares = cells.double() / cells.sum(dim=-1, keepdim=True)
    return shares.flatten(1).numpy()
