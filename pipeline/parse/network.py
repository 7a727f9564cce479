"""What differs between parsers: a network from pixels to scores per class."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Network:
    """A loaded network.

    Attributes:
        scores: float32 (B, 3, S, S) normalised pixels, in the channel order of its class
            map, to (B, C, h, w): one score per class of the network and pixel.
        device: the device of its input.
        scores_and_maps: the same scores, then the feature maps on the way to them, float (B, C, h, w) each,
            the last of which the scores are computed from; None if the network does not output them.
    """

    scores: Callable[[Tensor], Tensor]
    device: torch.device
    scores_and_maps: Callable[[Tensor], tuple[Tensor, ...]] | None = None


def autocast(device: torch.device, numbers: str) -> torch.autocast:
    """The context in which a PyTorch parser computes in `numbers`, such as ``bfloat16``."""
    return torch.autocast(device.type, getattr(torch, numbers), enabled=numbers != "float32")
