"""`PretextTask`: what the model, the training loop and the validation need of a task.

A new task is one file with a subclass and its `TaskConfig`, an entry in `training.pretrain.tasks.TASKS`,
and a block of settings below ``pretrain.tasks``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from common.pipeline_config import Section, Weight
from training.models import Features
from training.pretrain.tasks.patches import ClassSet, Crops

# Targets or outputs of one task, by names that the task chooses; the first dimension is the batch.
Tensors = Mapping[str, Tensor]


class TaskConfig(Section):
    """Settings of one task."""

    weight: Weight
    """of its losses in the total; a task of weight 0 is not built"""


@dataclass(frozen=True)
class TaskContext:
    """What a task must know of the rest."""

    channels: int  # C of the features
    input_size: int  # the side S of the network's input in pixels
    takes_rows: bool  # whether each local branch has an input of its own (``sspl``)
    classes: ClassSet  # of the targets


@dataclass(frozen=True)
class TaskMetric:
    """A score of one task."""

    name: str  # the key in files
    title: str  # the words on a page
    # Batches' observations (see `PretextTask.observe`) to the score; None if these do not determine it.
    function: Callable[[Tensors], float | None]
    chance: float | None = None  # the expected score of guessing; None if it depends on the data
    higher_is_better: bool = True  # its direction
    # Also measured on single batches of training, not only on the val split; then never None.
    in_training: bool = True


ConfigT = TypeVar("ConfigT", bound=TaskConfig)


class PretextTask(nn.Module, ABC, Generic[ConfigT]):
    """One task of stage 1: its targets, head, losses and metrics.

    Its parameters are trained with the network's. A subclass sets the class attributes.
    """

    name: ClassVar[str]  # key below ``pretrain.tasks``, and prefix of its losses and metrics
    abbreviation: ClassVar[str]  # for tables and pages
    title: ClassVar[str]  # for tables and pages
    config_class: ClassVar[type[TaskConfig]] = TaskConfig  # the type of its settings
    # The features that its loss sends a gradient to: ``backbone`` and names of branches.
    features: ClassVar[frozenset[str]]
    # Members of a sample that the targets need beside the image, such as ``mask.png``.
    members: ClassVar[frozenset[str]] = frozenset()
    # Whether it looks at the patch that tasks share; otherwise `images` is its input.
    reads_patch: ClassVar[bool] = True
    adversary_interval: ClassVar[int] = 1  # its adversary, if it has one, is trained in every so many-th step

    def __init__(self, config: ConfigT, context: TaskContext) -> None:
        super().__init__()
        self.config, self.context = config, context

    def images(self, targets: Tensors) -> Tensor | dict[str, Tensor]:
        """The network's input of a task that does not read the patch: (B, 3, S, S), or one by branch."""
        raise NotImplementedError(f"{type(self).__name__} reads the patch")

    @abstractmethod
    def targets(self, crops: Crops, generator: torch.Generator) -> dict[str, Tensor]:
        """Make a batch's targets on its device; no other task draws from the CPU generator."""

    @abstractmethod
    def forward(self, features: Features) -> dict[str, Tensor]:
        """Logits, or what else the losses read, of the network's features."""

    @abstractmethod
    def losses(self, outputs: Tensors, targets: Tensors) -> dict[str, Tensor]:
        """Scalar terms, unweighted, by ``loss`` or ``<term>_loss``."""

    def adversary(self) -> nn.Module | None:
        """A network that is trained against this task by an optimiser of its own; None if there is none."""
        return None

    def fooling_losses(self, adversary: nn.Module, outputs: Tensors) -> dict[str, Tensor]:
        """Terms of the task's loss that the adversary computes; its parameters are frozen then."""
        raise NotImplementedError(f"{type(self).__name__} has no adversary")

    def adversary_loss(self, adversary: nn.Module, outputs: Tensors) -> Tensor:
        """The adversary's loss, a scalar; nothing of it may reach the network."""
        raise NotImplementedError(f"{type(self).__name__} has no adversary")

    def metrics(self) -> tuple[TaskMetric, ...]:
        """The scores of the task, in the order of tables."""
        return ()

    def observe(self, outputs: Tensors, targets: Tensors) -> dict[str, Tensor]:
        """What `metrics` need of one batch; batches are concatenated along the first dimension."""
        return {}

    def scores(self, observations: Sequence[Tensors], training: bool) -> dict[str, float]:
        """The metrics of one or more batches, by name, without those that these batches do not determine,
        and in `training` without those that single batches are not measured by.
        """
        joined = {key: torch.cat([batch[key] for batch in observations]) for key in observations[0]}
        values = {
            metric.name: metric.function(joined)
            for metric in self.metrics()
            if metric.in_training or not training
        }
        return {name: value for name, value in values.items() if value is not None}

    def description(self) -> dict[str, Any]:
        """What ``metrics.json`` says of the task, so that readers need no list of tasks."""
        names = ("name", "title", "chance", "higher_is_better")
        metrics = [{name: getattr(metric, name) for name in names} for metric in self.metrics()]
        described = {name: getattr(self, name) for name in ("name", "abbreviation", "title")}
        return {**described, "weight": self.config.weight, "metrics": metrics}


def mean_of(key: str) -> Callable[[Tensors], float]:
    """A metric's function: the mean of the booleans or numbers observed as `key`."""
    return lambda observed: observed[key].float().mean().item()
