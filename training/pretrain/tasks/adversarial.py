"""Adversarial agreement: local features together should say what the whole face says.

The three local branches' features are fused and pooled; a small discriminator
tells that vector ("fake") from the whole branch's pooled vector ("real").
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.models import LOCAL_BRANCHES
from training.models.blocks import activation, convolution


class Fusion(nn.Module):
    """Local features by branch, (B, C, h, w) each, to one pooled vector, (B, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fuse = nn.Sequential(
            convolution(len(LOCAL_BRANCHES) * channels, channels, kernel=1), activation(channels)
        )

    def forward(self, branches: dict[str, Tensor]) -> Tensor:
        """Return the fused vector."""
        joined = torch.cat([branches[name] for name in LOCAL_BRANCHES], dim=1)
        return self.fuse(joined).mean(dim=(2, 3))


class Discriminator(nn.Module):
    """Fully connected C -> C/8 -> C/4 -> C/2 -> 1 (512 -> 64 -> 128 -> 256 -> 1), leaky ReLU, no biases."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = [channels, channels // 8, channels // 4, channels // 2]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs, bias=False), nn.LeakyReLU(0.05)]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], 1, bias=False))

    def forward(self, vectors: Tensor) -> Tensor:
        """Logits (B, 1) that vectors (B, C) come from the whole branch."""
        return self.layers(vectors)


def fooling_loss(discriminator: Discriminator, fused: Tensor) -> Tensor:
    """The network's term: the fused vector should pass for real."""
    logits = discriminator(fused)
    return F.binary_cross_entropy_with_logits(logits.float(), torch.ones_like(logits, dtype=torch.float32))


def discriminator_loss(discriminator: Discriminator, fused: Tensor, whole: Tensor) -> Tensor:
    """The discriminator's loss: real for the whole branch's vector, fake for the fused one; both detached."""
    real, fake = discriminator(whole.detach()), discriminator(fused.detach())
    return F.binary_cross_entropy_with_logits(
        torch.cat((real, fake)).float(),
        torch.cat((torch.ones_like(real), torch.zeros_like(fake))).float(),
    )
