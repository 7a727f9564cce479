"""What a stage gives to the trainer: a model, a function from a micro-batch to its loss, scores on val."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from training.data.loader import Batch, TrainingData
from training.engine.optim import ParameterGroups


@dataclass(frozen=True)
class StepLoss:
    """The loss of one micro-batch."""

    total: Tensor  # what the model minimises, a scalar
    # Gives what is logged, by name. Called in logged steps alone, as the host waits for the device there.
    values: Callable[[], dict[str, float]] = dict
    # Gives what the adversary minimises, a scalar; None in steps in which it is not trained. It is called
    # after the model's backward pass and may send no gradient into the model.
    adversary: Callable[[], Tensor] | None = None


class Objective(ABC):
    """What a stage trains."""

    data: TrainingData  # the samples that are trained on, and the settings of the loop
    model: nn.Module  # whose parameters are trained and averaged
    # Networks that are trained against the model by an optimiser of their own, at the highest of the model's
    # rates; frozen except while their own loss is computed. None: there are none.
    adversary: nn.ModuleDict | None = None
    # The score of `validate` by which the step is chosen whose weights are kept; without it, the last step.
    select: str | None = None

    @abstractmethod
    def parameter_groups(self) -> ParameterGroups:
        """The model's parameters with their learning rates."""

    @abstractmethod
    def loss(self, forward: Callable[..., Any], batch: Batch, step: int, micro_batch: int) -> StepLoss:
        """The loss of a micro-batch.

        Args:
            forward: the model, to be called instead of it, because it may share gradients among processes.
            batch: on the device of the model.
            step: number of the optimisation step.
            micro_batch: number of the micro-batch within the step, over all processes; random draws may
                depend on nothing but the seed, `step` and this.
        """

    @abstractmethod
    def batch_norm(self) -> tuple[nn.Module, Iterable[Tensor]]:
        """The module whose batch-norm statistics are measured for averaged weights, and its inputs.

        All processes measure the same inputs.
        """

    @abstractmethod
    def validate(self) -> Mapping[str, float]:
        """Scores by name of the averaged weights, which the model has meanwhile.

        All processes call this for the same samples: synchronised batch norm waits for all of them.
        """


def mean_average_precision(labels: NDArray[np.int8], scores: NDArray[np.floating]) -> float | None:
    """The mean average precision, 0 to 1, of the columns in which both classes occur; None without any.

    Labels are int8 (N, A), 0 or 1, -1 where unknown; scores are float (N, A), logits or probabilities.
    """
    from sklearn.metrics import average_precision_score  # takes a second that pre-training need not wait for

    values = []
    for target, score in zip(labels.T, scores.T, strict=True):
        known = target >= 0
        if known.any() and target[known].min() != target[known].max():
            values.append(float(average_precision_score(target[known], score[known])))
    return float(np.mean(values)) if values else None
