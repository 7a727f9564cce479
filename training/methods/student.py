"""``student``: a network that learns the region probe's probabilities of all train faces.

The region probe reads the parser's features, so a classifier of plain pictures must learn from it, after
knowledge distillation (Hinton et al. 2015): probabilities say more of a face than a 0 or 1.
"""

from collections.abc import Collection
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from training.data.samples import Samples
from training.methods.calibration import use_label_thresholds
from training.methods.method import Context, Method, Run
from training.methods.network import (
    NETWORK_SETTINGS,
    initial_network,
    start_from_stage_1,
    train_network,
)
from training.methods.region_probe import RegionProbeMethod, fit_region_probe
from training.models.classifier import Classifier
from training.models.inference import sample_probabilities

BATCH_SIZE: Final = 64
"""Faces of an optimisation step, over all processes: four times those of the other networks, since all train
faces have targets."""


class Student(Method):
    """Distillation of the region probe into a network."""

    name = "student"
    title = "student of the region probe"
    sentence = (
        "A pre-trained network learns the probabilities that the region probe gives all train faces, and so "
        "needs the picture alone."
    )
    settings = (*NETWORK_SETTINGS, "student_steps", "regions")
    pretrained = True
    unlabelled = True

    def members(self, stored: Collection[str]) -> frozenset[str]:
        """What the region probe reads."""
        return RegionProbeMethod().members(stored)

    def fit(self, context: Context, run: Run) -> tuple[Classifier, dict[str, Any]]:
        """See `Method.fit`."""
        model = initial_network(context)
        start_from_stage_1(context, run, model)
        targets = student_targets(context, run.labelled)
        of_all = replace(run, labelled=context.all_faces, steps=context.settings.student_steps)
        classifier, result = train_network(context, of_all, model, targets=targets, batch_size=BATCH_SIZE)
        if context.settings.select == "labels":
            use_label_thresholds(classifier, run.labelled.attributes)
        return classifier, result


def student_targets(context: Context, labelled: Samples) -> NDArray[np.float32]:
    """Targets of all train faces, float32 (N, A), 0 to 1: the probe's probabilities, and labels where known.

    Args:
        context: of the run.
        labelled: the faces whose labels are used.
    """
    stream, every_face = context.config.stream, context.all_faces
    probe, _ = fit_region_probe(labelled, every_face, stream, context.regions)
    targets = sample_probabilities(probe, every_face, stream, BATCH_SIZE, "targets").astype(np.float32)
    position = {key: number for number, key in enumerate(every_face.keys)}
    rows = [position[key] for key in labelled.keys]
    targets[rows] = np.where(labelled.attributes >= 0, labelled.attributes, targets[rows])
    return targets
