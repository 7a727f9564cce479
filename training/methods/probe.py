"""``probe``: L2-regularised logistic regression on stored features, its strength chosen by faces left out.

The solution lies in the span of the training features, so they are rotated into it first: 84 faces need
84 weights per attribute, however many features there are.
"""

import time
from collections.abc import Collection, Iterator
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from common.pipeline_config import Stream
from training.data.samples import Samples
from training.engine.objective import mean_average_precision
from training.engine.optim import minimise
from training.methods.calibration import calibrate, draw_folds
from training.methods.method import Context, Method, Run
from training.models.classifier import Classifier
from training.models.probe import Probe
from training.models.stored_features import members_of, parts_of, read_features, whole_face_blocks

STRENGTHS: Final = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
"""Candidates of C, the weight of the summed cross-entropy against half the squared norm of the weights."""


class LinearProbe(Method):
    """The baseline of stored features."""

    name = "probe"
    title = "linear probe"
    sentence = (
        "Logistic regression on the features of the whole face that the parser, a fixed network, computed."
    )
    settings = ("select",)
    label_thresholds = True

    def members(self, stored: Collection[str]) -> frozenset[str]:
        """The features of the whole face."""
        return members_of(whole_face_blocks(stored))

    def fit(self, context: Context, run: Run) -> tuple[Classifier, dict[str, Any]]:
        """See `Method.fit`."""
        return fit_probe(run.labelled, context.val, context.config.stream)


def fit_probe(train: Samples, val: Samples, stream: Stream) -> tuple[Probe, dict[str, Any]]:
    """Fit one regression per attribute.

    Cross-validation among the labelled faces, or val if it has any, chooses the strength for all attributes
    together; probabilities are calibrated by labelled faces that were left out.

    Returns:
        The probe, and how the fit went: ``seconds``, reading included, ``loss``, the mean cross-entropy of
        known labels of faces left out, and their ``left_out_average_precision``, ``strength``, the selected
        C, and the ``val_average_precision``, None without val.

    Raises:
        UserError: the shards do not hold the features.
    """
    started, blocks, labels = time.monotonic(), whole_face_blocks(train.extents), train.attributes
    values = read_features(train, blocks, stream).astype(np.float64)
    mean, scale = standardisation(values)
    standardised = (values - mean) * scale
    basis = principal_axes(standardised)
    inputs, (_, folds) = standardised @ basis, draw_folds(len(train))
    of_val = (read_features(val, blocks, stream) - mean) * scale @ basis if len(val) else None
    rests = [np.setdiff1d(np.arange(len(train)), fold) for fold in folds]
    paths = [logistic_regressions(inputs[rest], labels[rest], STRENGTHS) for rest in rests]
    seen, left_out, best = np.concatenate(folds), np.zeros(labels.shape), -1.0
    for strength, (weights, biases), *others in zip(
        STRENGTHS, logistic_regressions(inputs, labels, STRENGTHS), *paths, strict=True
    ):
        for fold, (without, offsets) in zip(folds, others, strict=True):
            left_out[fold] = inputs[fold] @ without + offsets
        score, on_val = mean_average_precision(labels[seen], left_out[seen]) or 0.0, None
        if of_val is not None:
            on_val = mean_average_precision(val.attributes, of_val @ weights + biases) or 0.0
        # Scores have one peak, and the weaker the penalty, the longer a solution takes.
        if (score if on_val is None else on_val) <= best:
            break
        best = score if on_val is None else on_val
        chosen = strength, weights, biases, left_out[seen], score, on_val
    strength, weights, biases, predicted, score, on_val = chosen
    slopes, offsets, loss = calibrate(predicted, labels[seen])
    probe = Probe(
        attributes=train.attribute_names,
        blocks=blocks,
        parts=parts_of(train, blocks, stream),
        mean=mean,
        scale=scale,
        weights=basis @ weights * slopes,
        biases=biases * slopes + offsets,
    )
    return probe, {
        "steps": 0,
        "seconds": round(time.monotonic() - started, 1),
        "loss": round(loss, 4),
        "strength": strength,
        "left_out_average_precision": round(score, 4),
        "val_average_precision": None if on_val is None else round(on_val, 4),
    }


def standardisation(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean (D,) of (N, D), and the inverse of the deviation (D,), 0 for constants."""
    mean, deviation = values.mean(axis=0), values.std(axis=0)
    return mean, np.where(deviation > 1e-6, 1 / np.maximum(deviation, 1e-6), 0.0)


def principal_axes(standardised: NDArray[np.float64]) -> NDArray[np.float64]:
    """Orthonormal axes, float64 (D, at most N), that span faces, float64 (N, D), without correlation."""
    if len(standardised) < standardised.shape[1]:
        return np.asarray(np.linalg.svd(standardised, full_matrices=False)[2].T)
    return np.asarray(np.linalg.eigh(standardised.T @ standardised)[1])  # cheaper with many faces


def logistic_regressions(
    features: NDArray[np.float64], labels: NDArray[np.int8], strengths: tuple[float, ...]
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """For each strength C the weights (D, A) and biases (A,), computed when they are asked for.

    L-BFGS searches for weights in units of the inverse square root of the Hessian's diagonal at the prior,
    which is nearly the whole Hessian where columns are uncorrelated (Jacobi preconditioning): ten times
    fewer iterations.

    Args:
        features: float64 (N, D), whose columns should be uncorrelated.
        labels: int8 (N, A), 0 or 1, -1 where unknown. An attribute without both classes gets no weights.
        strengths: in ascending order.
    """
    inputs, known = torch.from_numpy(features), torch.from_numpy(labels >= 0).double()
    targets = torch.from_numpy(labels).clamp(min=0).double()
    positives, count = (targets * known).sum(0), known.sum(0)
    known = known * ((positives > 0) & (positives < count))
    share = (positives + 0.5) / (count + 1)
    weights, biases = torch.zeros(inputs.shape[1], labels.shape[1], dtype=torch.float64), share.logit()
    curvature = share * (1 - share)
    bias_scale = (1 + count * curvature).rsqrt()

    def solved(strength: float, weights: Tensor, biases: Tensor) -> tuple[Tensor, Tensor]:
        scale = (1 / strength + torch.outer(inputs.square().sum(0), curvature)).rsqrt()
        scaled = [(weights / scale).requires_grad_(), (biases / bias_scale).requires_grad_()]

        def loss() -> Tensor:
            weights, biases = scaled[0] * scale, scaled[1] * bias_scale
            logits = inputs @ weights + biases
            entropy = F.binary_cross_entropy_with_logits(logits, targets, known, reduction="sum")
            return entropy + weights.square().sum() / (2 * strength)

        minimise(scaled, loss, 200, 1e-8 * known.sum().item())
        return scaled[0].detach() * scale, scaled[1].detach() * bias_scale

    for strength in strengths:
        weights, biases = solved(strength, weights, biases)
        yield weights.numpy(), biases.numpy()
