"""What every network gives to the heads, and how all of them start."""

from dataclasses import dataclass
from typing import Final

from torch import Tensor, nn

BRANCHES: Final = ("whole", "upper", "middle", "lower")
LOCAL_BRANCHES: Final = BRANCHES[1:]


@dataclass(frozen=True)
class Features:
    """What the network computes from a batch of pictures.

    Attributes:
        backbone: last stage, float (B, C, h, w).
        branches: by name, float (B, C, h, w); empty if they were not asked for.
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
