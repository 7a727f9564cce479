"""Fitting the probe: L2-regularised logistic regression, its strength chosen on val.

The solution lies in the span of the training features, so they are rotated into it first: 84 faces need
84 weights per attribute, however many features there are.
"""

import time
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from common.pipeline_config import Stream
from training.data.samples import Samples
from training.engine.average_precision import mean_average_precision
from training.models.probe import FeatureSet, Probe, read_features

STRENGTHS: Final = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
"""Candidates of C, the weight of the summed cross-entropy against half the squared norm of the weights."""

WITHOUT_VAL: Final = 1e-3
"""C if no val face has a label."""

ITERATIONS: Final = 200
"""Limit of L-BFGS per strength, each of which starts from the solution of the one before."""

TOLERANCE: Final = 1e-8
"""Change of the summed cross-entropy, per known label, that ends it."""


@dataclass(frozen=True)
class ProbeResult:
    """How a fit went.

    Attributes:
        seconds: wall-clock time, reading included.
        loss: mean cross-entropy of the known labels; of a region probe, for the faces left out.
        strength: the selected C; of a region probe, the penalty.
        val_faces: labelled val faces that selected it.
        val_average_precision: their mean average precision; None if it was not measured.
    """

    seconds: float
    loss: float
    strength: float
    val_faces: int
    val_average_precision: float | None


def fit_probe(
    train: Samples, val: Samples, features: FeatureSet, stream: Stream
) -> tuple[Probe, ProbeResult]:
    """Fit one regression per attribute.

    Args:
        train: labelled samples.
        val: labelled samples that choose the strength, for all attributes together.
        features: of the whole face.
        stream: the cache of remote shards.

    Raises:
        UserError: the shards do not hold the features.
    """
    started = time.monotonic()
    values = read_features(train, features, stream)
    mean, scale = standardisation(values)
    standardised = (values - mean) * scale
    basis = np.linalg.svd(standardised, full_matrices=False)[2].T
    strengths = STRENGTHS if len(val) else (WITHOUT_VAL,)
    on_val = (read_features(val, features, stream) - mean) * scale if len(val) else np.empty((0, len(mean)))
    best: tuple[float, float, float, NDArray[np.float64], NDArray[np.float64]] | None = None
    for strength, weights, biases, loss in fit(standardised @ basis, train.attributes, strengths):
        weights = basis @ weights
        score = mean_average_precision(val.attributes, on_val @ weights + biases) or 0.0
        if best is None or score > best[0]:
            best = score, strength, loss, weights, biases
    assert best is not None  # there is at least one strength
    score, strength, loss, weights, biases = best
    probe = Probe(train.attribute_names, features, mean, scale, weights, biases)
    seconds = round(time.monotonic() - started, 1)
    chosen_on_val = round(score, 4) if len(val) else None
    return probe, ProbeResult(seconds, round(loss, 4), strength, len(val), chosen_on_val)


def standardisation(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean (D,) of (N, D), and the inverse of the deviation (D,), 0 for constants."""
    mean, deviation = values.mean(axis=0), values.std(axis=0)
    return mean, np.where(deviation > 1e-6, 1 / np.maximum(deviation, 1e-6), 0.0)


def fit(
    features: NDArray[np.float64], labels: NDArray[np.int8], strengths: tuple[float, ...]
) -> list[tuple[float, NDArray[np.float64], NDArray[np.float64], float]]:
    """For each strength C the weights (D, A), biases (A,) and mean loss.

    Args:
        features: float64 (N, D).
        labels: int8 (N, A), 0 or 1, -1 where unknown. An attribute without both classes gets no weights.
        strengths: in ascending order.
    """
    inputs, known = torch.from_numpy(features), torch.from_numpy(labels >= 0).double()
    targets = torch.from_numpy(labels).clamp(min=0).double()
    positives, count = (targets * known).sum(0), known.sum(0)
    known = known * ((positives > 0) & (positives < count))
    share = (positives + 0.5) / (count + 1)
    weights = torch.zeros(inputs.shape[1], labels.shape[1], dtype=torch.float64, requires_grad=True)
    biases = share.logit().requires_grad_()

    def cross_entropy() -> Tensor:
        logits = inputs @ weights + biases
        return F.binary_cross_entropy_with_logits(logits, targets, known, reduction="sum")

    solutions = []
    for strength in strengths:
        optimizer = torch.optim.LBFGS(
            [weights, biases],
            max_iter=ITERATIONS,
            tolerance_change=TOLERANCE * known.sum().item(),
            line_search_fn="strong_wolfe",
        )

        def objective(optimizer: torch.optim.Optimizer = optimizer, strength: float = strength) -> float:
            optimizer.zero_grad()
            value = cross_entropy() + weights.square().sum() / (2 * strength)
            value.backward()
            return value.item()

        optimizer.step(objective)
        loss = (cross_entropy() / known.sum().clamp(min=1)).item()
        solutions.append((strength, weights.detach().numpy().copy(), biases.detach().numpy().copy(), loss))
    return solutions
