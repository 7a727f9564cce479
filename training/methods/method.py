"""What a method is: a way to get a classifier from a few labelled faces."""

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Final

import torch

from common.config import Config, Finetune
from common.layout import Layout
from common.sampling import evenly_spaced
from training.data.loader import Batch, load
from training.data.provenance import provenance
from training.data.sampler import sequential_batches
from training.data.samples import Samples, read_samples
from training.engine.checkpoint import Checkpoints
from training.engine.distributed import Ranks
from training.models.attribute_network import read_groups
from training.models.blocks import resize_images
from training.models.classifier import Classifier
from training.models.probe import read_regions

BATCH_SIZE: Final = 64  # Of networks that are not trained


@dataclass(frozen=True)
class Run:
    """A method with an amount of labels, such as ``probe-5%``."""

    name: str
    labelled: Samples  # the faces whose labels are used
    steps: int  # optimisation steps of methods that train a network
    weights: Path | None  # the file of stage 1; None if the method does not start from it
    checkpoints: Checkpoints  # of this run; its processes share each batch


@dataclass(frozen=True)
class Context:
    """What all runs share."""

    config: Config
    layout: Layout
    ranks: Ranks
    resume: str  # what to do about a checkpoint, see `Checkpoints.resume`
    # By method the keys of the faces of its last run and the classifier, which others may learn from.
    latest: dict[str, tuple[tuple[str, ...], Classifier]] = field(default_factory=dict)

    @property
    def settings(self) -> Finetune:
        """The settings of stage 2."""
        return self.config.finetune

    @cached_property
    def train(self) -> Samples:
        """The samples of the train split, with labels or without."""
        return read_samples(self.layout, ("train",), self.config.stream.folder)

    @cached_property
    def labelled(self) -> Samples:
        """Those with at least one known attribute."""
        return self.train.labelled()

    @cached_property
    def all_faces(self) -> Samples:
        """All samples that may be trained on, with and without labels."""
        return read_samples(self.layout, ("train", "unlabelled"), self.config.stream.folder)

    @cached_property
    def val(self) -> Samples:
        """At most 1,000 labelled samples of val, which choose classifiers with ``select: val``; else none."""
        samples = read_samples(self.layout, ("val",)).labelled()
        count = 1000 if self.settings.select == "val" else 0
        return samples.take(evenly_spaced(count, len(samples)))

    @cached_property
    def val_batches(self) -> list[Batch]:
        """Their pictures at the network's size, uint8."""
        config, size = self.config, self.config.network.input_size
        planned, workers = sequential_batches(self.val, BATCH_SIZE), config.trainer.loader_workers
        batches = load(self.val, planned, {"jpg"}, workers, config.stream)
        return [replace(each, images=resize_images(each.images, size).to(torch.uint8)) for each in batches]

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Which data a classifier was trained on, see `training.data.provenance`."""
        return provenance(self.layout, self.train, self.config)

    @cached_property
    def groups(self) -> dict[str, list[str]]:
        """Attribute names by branch, from the file that ``finetune.groups`` names."""
        return read_groups(self.settings.groups)

    @cached_property
    def regions(self) -> dict[str, list[str]]:
        """See `regions_of`."""
        return regions_of(self.settings)


def regions_of(settings: Finetune) -> dict[str, list[str]]:
    """Names of face regions by attribute, from the file that ``finetune.regions`` names."""
    return read_regions(settings.regions)


class Method(ABC):
    """A way to get a classifier."""

    name: ClassVar[str]  # in ``finetune.methods``, and in the names of runs
    title: ClassVar[str]  # in tables and plots
    sentence: ClassVar[str]  # what it does
    # Those of ``finetune`` that change its classifiers, but ``seed`` and ``runs``; files count by content.
    settings: ClassVar[tuple[str, ...]] = ()
    pretrained: ClassVar[bool] = False  # whether it starts from the weights of stage 1
    unlabelled: ClassVar[bool] = False  # whether it learns from faces without labels, too
    # Whether ``select: labels`` gives thresholds; else the evaluation does.
    label_thresholds: ClassVar[bool] = False

    def members(self, stored: Collection[str]) -> frozenset[str]:
        """The members of a sample that it reads, given those that the shards store."""
        return frozenset({"jpg"})

    @abstractmethod
    def fit(self, context: Context, run: Run) -> tuple[Classifier, dict[str, Any]]:
        """The classifier, and how the fit went: JSON values, with ``seconds``, ``steps`` and ``loss``.

        Raises:
            UserError: a file is missing or does not fit, or a loss is not finite.
            SystemExit: a signal stopped the run; its state is saved.
        """

    def configured(self, config: Config) -> Config:
        """The settings with which it is fitted: `config`, except for what it prescribes."""
        return config
