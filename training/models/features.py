"""The features that every network passes to the heads, and the initialisation of all networks."""

from dataclasses import dataclass
from typing import Final

from torch import Tensor, nn

BRANCHES: Final = ("whole", "upper", "middle", "lower")
LOCAL_BRANCHES: Final = BRANCHES[1:]


@dataclass(frozen=True)
class Features:
    """The features of a batch of images.

    Attributes:
        backbone: last stage, float (B, C, h, w).
        branches: by name, float (B, C, h, w); empty if they were not requested.
    """

    backbone: Tensor
    branches: dict[str, Tensor]


def initialise(network: nn.Module) -> None:
    """Kaiming-normal (fan out) convolutions, as published."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
