"""Loss weights by gradient: factors that let every loss pull equally hard at the shared backbone.

After GradNorm (Chen et al. 2018), without learning the weights: they follow from the measured norms.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from training.engine.distributed import Ranks

INTERVAL: Final = 20
"""Steps between two measurements; each costs about one backward pass more, a twentieth of it per step."""

DECAY: Final = 0.7
"""Of the moving average of norms, by measurement: the last three have two thirds of the weight."""

LARGEST: Final = 100.0
"""The greatest factor, and the inverse of the least, for losses whose gradient vanishes."""


class GradientBalance:
    """Measures the gradient's norm of each loss, and keeps the factors.

    Args:
        parameters: of the backbone.
        ranks: the processes, whose norms are averaged, so that all have the same factors.

    Attributes:
        factors: on the configured weights, by term; none before the first measurement.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], ranks: Ranks) -> None:
        self.factors: dict[str, float] = {}
        self._parameters, self._ranks = list(parameters), ranks
        self._norms: dict[str, float] = {}
        self._measured: list[dict[str, Tensor]] = []

    @staticmethod
    def due(step: int) -> bool:
        """Whether `step` is measured."""
        return step % INTERVAL == 0

    def measure(self, terms: Mapping[str, Tensor], scale: float) -> None:
        """Measure one micro-batch of a step, before its backward pass.

        Args:
            terms: scalar losses whose graph is kept.
            scale: by which losses are multiplied for the backward pass, so that float16 does not underflow.
        """
        self._measured.append({name: self._norm(term * scale) / scale for name, term in terms.items()})

    def update(self, weight: Callable[[str], float]) -> None:
        """The factors that follow from the micro-batches measured since the last call; all processes call it.

        A measurement that is not finite is left out.

        Args:
            weight: the configured one of a term.
        """
        measured, self._measured = self._measured, []
        means = {
            name: torch.stack([each[name] for each in measured]).double().mean().item()
            for name in measured[0]
        }
        for name, norm in self._ranks.mean(means).items():
            if math.isfinite(norm):
                before = self._norms.get(name, norm)
                self._norms[name] = DECAY * before + (1 - DECAY) * norm
        self.factors = balanced(self._norms, {name: weight(name) for name in self._norms})

    def state_dict(self) -> dict[str, Any]:
        """The averages and the factors."""
        return {"norms": dict(self._norms), "factors": dict(self.factors)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self._norms, self.factors = dict(state["norms"]), dict(state["factors"])

    def _norm(self, loss: Tensor) -> Tensor:
        gradients = torch.autograd.grad(loss, self._parameters, retain_graph=True, allow_unused=True)
        norms = torch._foreach_norm([gradient for gradient in gradients if gradient is not None])
        return torch.stack(norms).float().norm()


def balanced(norms: Mapping[str, float], weights: Mapping[str, float]) -> dict[str, float]:
    """Factors that make all norms of unweighted gradients equal to their mean by configured weight.

    So the norms' weighted sum stays, and the weights say how the pull is shared. A factor exceeds neither
    `LARGEST` nor its inverse.
    """
    total = sum(weights[name] * norm for name, norm in norms.items())
    mean = total / max(sum(weights[name] for name in norms), 1e-12)
    return {
        name: min(LARGEST, max(1 / LARGEST, mean / norm)) if norm > 0 else LARGEST
        for name, norm in norms.items()
    }
