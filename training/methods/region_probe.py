"""``region_probe``: kernel regression that compares the regions of the face which show an attribute.

An attribute such as Narrow_Eyes shows in a few regions of the face, and which these are is known before any
label is. The regression predicts 0 and 1; its predictions for each face by all the others have a closed
form, from which the penalty and the scale of the logits can be chosen without val. They are also what a
second regression compares faces by, beside the features (stacked generalisation, Wolpert 1992): attributes
go together, and the first regression sees one at a time.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from common.pipeline_config import Stream
from common.sampling import evenly_spaced
from training.data.samples import Samples
from training.engine.average_precision import mean_average_precision
from training.methods.kernel_regression import Fit, calibrate, fit_attributes
from training.methods.method import Context, Method, Run
from training.methods.probe import standardisation
from training.models.classifier import Classifier
from training.models.region_probe import RegionKernels, RegionProbe, Regions, region_classes
from training.models.stored_features import Blocks, members_of, read_features, region_blocks

PENALTIES: Final = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Candidates of the penalty of the squared weights; the kernel of a face with itself is 1."""

WITHOUT_SELECTION: Final = 0.1
"""Also of the first regression."""

FACES_OF_HALF: Final = 1500
"""With so many labelled faces the first regression's predictions have half of the squared distance; with n,
n / (n + 1500). See docs/method.md."""

REFERENCES: Final = 2000
"""At most so many of the labelled faces are what all others are compared with (Nyström's approximation,
Williams and Seeger 2001); with fewer labels the regression is exact."""

LEFT_OUT: Final = 2000
"""At most so many faces are left out in turn, for the logits' scale."""

STANDARDISED_ON: Final = 2000
"""At most so many faces, with labels or without, give the mean and deviation of the features."""

Select = Literal["val", "crossval", "last"]


class RegionProbeMethod(Method):
    """The best of the methods that train no network."""

    name = "region_probe"
    title = "region probe"
    sentence = (
        "Kernel regression on stored features, in which the regions of the face that show an attribute weigh "
        "most."
    )
    settings = ("select", "regions")
    unlabelled = True

    def members(self, stored: Collection[str]) -> frozenset[str]:
        """The features of the whole face, the picture and the mask."""
        return members_of(region_blocks(stored))

    def fit(self, context: Context, run: Run) -> tuple[Classifier, dict[str, Any]]:
        """See `Method.fit`."""
        stream, select = context.config.stream, context.settings.select
        return fit_region_probe(run.labelled, context.all_faces, context.val, stream, context.regions, select)


def fit_region_probe(
    train: Samples, unlabelled: Samples, val: Samples, stream: Stream, regions: Regions, select: Select
) -> tuple[RegionProbe, dict[str, Any]]:
    """Fit one regression per attribute on features of the whole face and of its regions.

    Args:
        train: labelled samples.
        unlabelled: samples on which features are standardised.
        val: labelled samples that choose the penalty with `select` ``val``.
        stream: the cache of remote shards.
        regions: names of regions by attribute.
        select: ``crossval`` chooses the penalty by the faces that are left out; ``last`` takes 0.1.

    Returns:
        The probe, and how the fit went, as `training.methods.probe.fit_probe` says it: ``loss`` is that of
        the faces left out, and ``strength`` the penalty.
    """
    started, labels = time.monotonic(), train.attributes
    blocks = region_blocks(train.extents)
    standard = unlabelled.take(evenly_spaced(STANDARDISED_ON, len(unlabelled)))
    mean, scale = standardisation(read_features(standard, blocks, stream))
    features = (read_features(train, blocks, stream) - mean) * scale

    rows, classes = evenly_spaced(LEFT_OUT, len(train)), region_classes(train.attribute_names, regions)
    penalties = (WITHOUT_SELECTION,) if select == "last" else PENALTIES
    first, fits = fit_regressions(features, labels, blocks, classes, penalties, rows)
    probe = RegionProbe(
        attributes=train.attribute_names,
        blocks=blocks,
        mean=mean,
        scale=scale,
        weights=fits[0].weights,
        biases=fits[0].biases,
        classes=tuple(classes),
        **first,
    )

    faces_of_val = val if select == "val" else val.take(np.arange(0))
    if len(faces_of_val):
        kernels = probe.kernels((read_features(val, blocks, stream) - mean) * scale)
        sums = kernels.sums(probe.classes, [fit.weights for fit in fits])
        judged, predicted = (
            val.attributes,
            [on_val + fit.biases for on_val, fit in zip(sums, fits, strict=True)],
        )
    else:
        judged, predicted = labels[rows], [fit.left_out for fit in fits]
    scores = [mean_average_precision(judged, each) or 0.0 for each in predicted]
    best = int(np.argmax(scores))

    slopes, offsets, loss = calibrate(fits[best].left_out, labels[rows])
    probe = replace(probe, weights=fits[best].weights * slopes, biases=fits[best].biases * slopes + offsets)
    return probe, {
        "steps": 0,
        "seconds": round(time.monotonic() - started, 1),
        "loss": round(loss, 4),
        "strength": penalties[best],
        "val_faces": len(faces_of_val),
        "val_average_precision": round(scores[best], 4) if len(faces_of_val) else None,
    }


def fit_regressions(
    features: NDArray[np.float64],
    labels: NDArray[np.int8],
    blocks: Blocks,
    classes: Sequence[tuple[int, ...]],
    penalties: Sequence[float],
    rows: NDArray[np.int64],
) -> tuple[dict[str, Any], list[Fit]]:
    """The first regression, and with each penalty the second, which compares faces by its predictions too.

    Args:
        features: float64 (N, D), standardised, of the labelled faces.
        labels: int8 (N, A), 0 or 1, -1 where unknown.
        blocks: what the features are.
        classes: of each attribute's regions.
        penalties: of the second regression.
        rows: int64 (L,), the faces that the second regression leaves out in turn.

    Returns:
        The fields of `RegionProbe` that describe the references and the first regression, and the fits of
        the second.
    """
    count = len(features)
    rows_of_references, every_row = evenly_spaced(REFERENCES, count), np.arange(count)
    references = features[rows_of_references].astype(np.float32)
    kernels = RegionKernels(features, references, blocks)
    (first,) = fit_attributes(kernels, labels, rows_of_references, classes, (WITHOUT_SELECTION,), every_row)
    mean, scale = standardisation(first.left_out)
    predictions = (first.left_out - mean) * scale
    of_references, share = predictions[rows_of_references].astype(np.float32), count / (count + FACES_OF_HALF)
    kernels = kernels.stacked(predictions, of_references, share)
    fits = fit_attributes(kernels, labels, rows_of_references, classes, penalties, rows)
    fields = {
        "references": references,
        "first_weights": first.weights,
        "first_biases": first.biases,
        "prediction_mean": mean,
        "prediction_scale": scale,
        "reference_predictions": of_references,
        "prediction_share": share,
    }
    return fields, fits
