"""Targets of a student: what the region probe, fitted on a few labels, says about all train faces.

The region probe reads the parser's features, so a classifier of plain pictures must learn from it, after
knowledge distillation (Hinton et al. 2015): probabilities say more of a face than a 0 or 1.
"""

import numpy as np
from numpy.typing import NDArray

from common.config import Finetune
from common.pipeline_config import Stream
from training.data.samples import Samples
from training.finetune.region_probe import fit_region_probe
from training.models.attribute_regions import Regions


def student_targets(
    labelled: Samples,
    everyone: Samples,
    val: Samples,
    settings: Finetune,
    stream: Stream,
    regions: Regions,
) -> NDArray[np.float32]:
    """Targets of all samples, float32 (N, A), 0 to 1: the probe's probabilities, and labels where known.

    Args:
        labelled: the samples whose labels are used; they are among `everyone`.
        everyone: all samples that may be trained on.
        val: labelled samples that choose the probe's penalty with ``finetune.select`` ``val``.
        settings, stream: of stage 2, and the cache of remote shards.
        regions: names of regions by attribute.
    """
    probe, _ = fit_region_probe(labelled, everyone, val, stream, regions, settings.select)
    targets = probe.probabilities(everyone, stream).astype(np.float32)
    position = {key: number for number, key in enumerate(everyone.keys)}
    rows = [position[key] for key in labelled.keys]
    targets[rows] = np.where(labelled.attributes >= 0, labelled.attributes, targets[rows])
    return targets
