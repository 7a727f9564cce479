"""Initial weights of stage 2: random, stage 1's, or ImageNet's."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from common.config import Network
from training.engine.seeds import set_seed
from training.models.classifier import Classifier
from training.models.imagenet import load_imagenet
from training.models.pretrained import load_pretrained

FROM_STAGE_1: Final = ("pretrained", "semi", "student")
"""Initialisations that take stage 1's weights."""


def weights_file(initial: str, pretrained: Path, imagenet: str | None) -> Path | None:
    """The file that an initialisation takes weights from; None for random weights.

    Args:
        initial: an entry of ``finetune.initial``.
        pretrained: the result of stage 1.
        imagenet: the setting ``finetune.imagenet``.
    """
    if initial in FROM_STAGE_1:
        return pretrained
    return Path(imagenet or "") if initial == "imagenet" else None


def initial_classifier(
    initial: str,
    file: Path | None,
    network: Network,
    attributes: Sequence[str],
    groups: Mapping[str, Sequence[str]],
    seed: int,
) -> Classifier:
    """A classifier with the initial weights of a run; its heads are random.

    Args:
        initial: an entry of ``finetune.initial``.
        file: see `weights_file`.
        network: the network.
        attributes: names of the labels.
        groups: attribute names by branch.
        seed: of the random weights.

    Raises:
        UserError: the file is missing or does not fit the network.
    """
    set_seed(seed)
    classifier = Classifier(network, attributes, groups)
    if file is not None and initial in FROM_STAGE_1:
        load_pretrained(classifier.network, network, file)
    elif file is not None:
        load_imagenet(classifier.network, file)
    return classifier
