"""``classifier.pt``: a fine-tuned classifier in one file that describes itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from common.config import Config, Network
from common.errors import UserError
from training.engine import checkpoint
from training.models.classifier import Classifier

METADATA: Final = "metadata"
"""The key of `ClassifierFile.metadata` in the file."""


@dataclass(frozen=True)
class ClassifierFile:
    """The content of a classifier's file.

    Attributes:
        model: on the CPU, in evaluation mode.
        metadata: the data that it was trained on, see `training.data.provenance`; None in files without.
        thresholds: probability at or above which an attribute counts as present, by name; None in files
            that were not exported.
        thresholds_from: where the thresholds come from, ``val`` or ``none known``.
    """

    model: Classifier
    metadata: dict[str, Any] | None
    thresholds: dict[str, float] | None
    thresholds_from: str


def save_classifier(
    path: Path,
    model: Classifier,
    groups: Mapping[str, Sequence[str]],
    config: Config,
    metadata: Mapping[str, Any],
) -> None:
    """Write a classifier with its attribute names, their groups by branch, the settings and `metadata`."""
    content = {
        "model": model.state_dict(),
        "attributes": list(model.attributes),
        "groups": groups,
        "config": config.model_dump(mode="json"),
        METADATA: metadata,
    }
    checkpoint.save(path, content)


def save_thresholds(source: Path, path: Path, thresholds: Mapping[str, float], thresholds_from: str) -> None:
    """Write a copy of a classifier's file that has its thresholds inside.

    Raises:
        UserError: `source` is missing or no checkpoint.
    """
    content = _load(source)
    checkpoint.save(path, {**content, "thresholds": thresholds, "thresholds_from": thresholds_from})


def read_classifier_file(path: Path) -> ClassifierFile:
    """Read a classifier that fine-tuning or ``training.export`` wrote.

    Raises:
        UserError: the file is missing or no classifier.
    """
    content = _load(path)
    if "probe" in content:
        raise UserError(
            f"{path}: a probe, which reads stored features instead of photos; parse the photos and name the "
            "shards with --shards, or name a fine-tuned classifier"
        )
    try:
        network = Network.model_validate(content["config"]["network"])
        model = Classifier(network, content["attributes"], content.get("groups"))
        model.load_state_dict(content["model"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise UserError(
            f"{path}: not a classifier of this project; fine-tune again ({error})"[:300]
        ) from error
    return ClassifierFile(
        model=model.eval(),
        metadata=content.get(METADATA),
        thresholds=content.get("thresholds"),
        thresholds_from=str(content.get("thresholds_from", "none known")),
    )


def read_classifier(path: Path) -> Classifier:
    """The classifier alone, see `read_classifier_file`."""
    return read_classifier_file(path).model


def _load(path: Path) -> dict[str, Any]:
    return checkpoint.load(path, made_by="python -m training.run --stage finetune")
