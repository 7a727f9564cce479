"""``region_probe``: kernel regression that compares the regions of the face which show an attribute.

An attribute such as Narrow_Eyes shows in a few regions of the face. Which these are is known before any
label is, or is learnt from the labels. All else is chosen by labelled faces that the fit left out, so that
no other labels are needed. Faces without labels help as a second view (co-training, Blum and Mitchell 1998):
there a linear function of the whole face learns what the regression says, and both are averaged.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
import torch
from numpy.typing import NDArray

from common.errors import UserError
from common.pipeline_config import Stream
from common.sampling import evenly_spaced
from training.data.samples import Samples
from training.engine.objective import mean_average_precision
from training.methods.block_weights import learn_weights
from training.methods.calibration import calibrate
from training.methods.kernel_regression import REFERENCES, fit_regressions
from training.methods.method import Context, Method, Run
from training.methods.probe import standardisation
from training.models.classifier import Classifier
from training.models.probe import RegionProbe, Regions, region_classes
from training.models.stored_features import Blocks, Part, members_of, parts_of, read_features, region_blocks

# At most so many faces, with labels or without, give the mean and deviation of the features, and learn the
# linear function. With four times as many it gains no more; with 150, a third as much.
POOL: Final = 2000
# Penalty of the linear function, where a face's mean squared feature of the whole face is 1.
RIDGE: Final = 1.0
# Probabilities that are learnt are at least so far from 0 and 1, or logits would know no bounds.
LEAST: Final = 0.01


class RegionProbeMethod(Method):
    """The best of the methods that train no network."""

    name = "region_probe"
    title = "region probe"
    sentence = (
        "Kernel regression on stored features, in which the regions of the face that show an attribute weigh "
        "most."
    )
    settings: ClassVar[tuple[str, ...]] = ("select", "regions")
    unlabelled = label_thresholds = True

    def members(self, stored: Collection[str]) -> frozenset[str]:
        """The features of the whole face, the picture and the mask."""
        return members_of(region_blocks(stored))

    def fit(self, context: Context, run: Run) -> tuple[Classifier, dict[str, Any]]:
        """See `Method.fit`."""
        return fit_region_probe(run.labelled, context.all_faces, context.config.stream, context.regions)


@dataclass(frozen=True)
class StandardisedFeatures:
    """What the regression reads of N labelled faces."""

    # (N, D), float32, of more than `REFERENCES` faces float16, as the shards store them.
    values: NDArray[np.floating]
    # float32 (P, D), of faces whose labels are not used; the labelled ones may be among them.
    pool: NDArray[np.float32]
    ridge: NDArray[np.float32]  # float32 (D, P), of the pool, see `ridge_of`
    # As in `training.models.probe.Probe`.
    blocks: Blocks
    parts: tuple[Part, ...]
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]


def read_standardised(train: Samples, unlabelled: Samples, stream: Stream) -> StandardisedFeatures:
    """The features of `train`, and of some faces of `unlabelled`, on which both are standardised.

    Raises:
        UserError: only one face has a label, or the shards do not hold the features.
    """
    if len(train) < 2:
        raise UserError("region_probe compares labelled faces, so it needs at least two of them")
    blocks = region_blocks(train.extents)
    pool = read_features(unlabelled.take(evenly_spaced(POOL, len(unlabelled))), blocks, stream)
    mean, scale = standardisation(pool.astype(np.float64))
    pool = ((pool - mean) * scale).astype(np.float32)
    dtype = np.float16 if len(train) > REFERENCES else np.float32
    values = read_features(train, blocks, stream, mean, scale, dtype)
    parts = parts_of(train, blocks, stream)
    return StandardisedFeatures(values, pool, ridge_of(pool, parts), blocks, parts, mean, scale)


def ridge_of(pool: NDArray[np.float32], parts: Sequence[Part]) -> NDArray[np.float32]:
    """Float32 (D, P): times centred targets (P, A), weights of a ridge regression on the whole face."""
    whole = np.repeat([part[1] < 0 for part in parts], [end - start for *_, start, end in parts])
    features = torch.from_numpy(pool[:, whole])
    features -= features.mean(0)
    system = features @ features.T
    system.diagonal().add_(RIDGE * features.shape[1])
    solved = np.zeros((len(whole), len(features)), np.float32)
    solved[whole] = torch.cholesky_solve(features, torch.linalg.cholesky(system)).T.numpy()
    return solved


def fit_region_probe(
    train: Samples, unlabelled: Samples, stream: Stream, regions: Regions
) -> tuple[RegionProbe, dict[str, Any]]:
    """`read_standardised`, then `fit_on_features`; the result has the ``seconds`` of both as well."""
    started = time.monotonic()
    features = read_standardised(train, unlabelled, stream)
    probe, result = fit_on_features(features, train.attributes, train.attribute_names, regions)
    return probe, {"seconds": round(time.monotonic() - started, 1), **result}


def fit_on_features(
    features: StandardisedFeatures, labels: NDArray[np.int8], names: tuple[str, ...], regions: Regions
) -> tuple[RegionProbe, dict[str, Any]]:
    """Fit one regression per attribute on features of the whole face and of its regions.

    Labels are int8 (N, A), 0 or 1, -1 where unknown, of the attributes with these `names`.

    Returns:
        The probe, whose probabilities are calibrated, and how the fit went: ``strength``, the penalty,
        ``loss``, the mean cross-entropy of labelled faces that the kernel regression left out,
        ``left_out_average_precision`` of these, and the attributes that have ``few_examples``,
        fewer than five of either kind.
    """
    columns = tuple(part[2:] for part in features.parts)
    block_weights = learn_weights(features.values, labels, features.parts, region_classes(names, regions))
    fit = fit_regressions(torch.from_numpy(features.values), labels, columns, block_weights)
    judged = labels[fit.seen]
    slopes, offsets, loss = calibrate(fit.left_out, judged)
    score = mean_average_precision(judged, fit.left_out)
    few = np.minimum((labels == 1).sum(0), (labels == 0).sum(0)) < 5
    probe = RegionProbe(
        attributes=names,
        blocks=features.blocks,
        parts=features.parts,
        mean=features.mean,
        scale=features.scale,
        block_weights=block_weights,
        linear_weights=np.zeros((features.values.shape[1], len(names)), np.float32),
        **fit.levels,
    )
    probe.weights, probe.biases = probe.weights * slopes, probe.biases * slopes + offsets
    _add_linear(probe, features.pool, features.ridge)
    return probe, {
        "steps": 0,
        "loss": round(loss, 4),
        "strength": fit.penalty,
        "left_out_average_precision": None if score is None else round(score, 4),
        "few_examples": [name for name, each in zip(names, few, strict=True) if each],
    }


def _add_linear(probe: RegionProbe, pool: NDArray[np.float32], ridge: NDArray[np.float32]) -> None:
    """Average the logits with those that a linear function of the whole face predicts.

    It is the `ridge` regression of the logits of `pool`. Its weight falls with the number of labels, as the
    share of the first level's predictions grows. The average varies less from face to face than the logits
    did, so it is stretched to their mean and deviation, for which the probe was calibrated.
    """
    logits = probe.logits_of(pool.astype(np.float64))
    least = np.log(LEAST / (1 - LEAST))
    targets = logits.clip(least, -least)
    weights = ridge @ (targets - targets.mean(0)).astype(np.float32)
    share = (1 - probe.prediction_share) / (2 - probe.prediction_share)
    average = (1 - share) * logits + share * (pool @ weights)
    deviation = average.std(0)
    stretch = np.divide(logits.std(0), deviation, out=np.ones_like(deviation), where=deviation > 1e-6)
    probe.weights = probe.weights * (stretch * (1 - share))
    probe.biases = (probe.biases * (1 - share) - average.mean(0)) * stretch + logits.mean(0)
    probe.linear_weights = (weights * (stretch * share)).astype(np.float32)
