"""Adversarial alignment: the local branches together should see what the whole branch sees.

The three local branches' features are fused and pooled; a small discriminator
tells that vector ("fake") from the whole branch's pooled vector ("real").
"""

from collections import OrderedDict
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.models import LOCAL_BRANCHES, Features
from training.models.blocks import activation, convolution
from training.pretrain.tasks.base import PretextTask, TaskConfig, TaskContext, Tensors
from training.pretrain.tasks.patches import Crops


class AdversarialTask(PretextTask[TaskConfig]):
    """The fused local features should pass for the whole branch's.

    It has no targets. Outputs: ``local`` and ``whole``, float (B, C).
    """

    name = "adversarial"
    abbreviation = "adversarial"
    title = "Adversarial alignment"
    features = frozenset(LOCAL_BRANCHES)
    adversary_interval = 3  # as published

    def __init__(self, config: TaskConfig, context: TaskContext) -> None:
        super().__init__(config, context)
        inputs, channels = len(LOCAL_BRANCHES) * context.channels, context.channels
        fuse = nn.Sequential(convolution(inputs, channels, kernel=1), activation(channels))
        self.fusion = nn.Sequential(OrderedDict(fuse=fuse))  # the name in checkpoints

    def targets(self, crops: Crops, generator: torch.Generator) -> dict[str, Tensor]:
        """None: both sides are features."""
        return {}

    def forward(self, features: Features) -> dict[str, Tensor]:
        """The fused and the whole branch's pooled vectors."""
        local = self.fusion(torch.cat([features.branches[name] for name in LOCAL_BRANCHES], dim=1))
        both = {"local": local, "whole": features.branches["whole"]}
        return {name: maps.mean(dim=(2, 3)) for name, maps in both.items()}

    def losses(self, outputs: Tensors, targets: Tensors) -> dict[str, Tensor]:
        """None without the discriminator; see `fooling_losses`."""
        return {}

    def adversary(self) -> nn.Module:
        """Fully connected C -> C/8 -> C/4 -> C/2 -> 1, leaky ReLU, no biases: a logit of realness (B, 1)."""
        channels, layers = self.context.channels, nn.Sequential()
        for inputs, outputs in pairwise((channels, channels // 8, channels // 4, channels // 2)):
            layers.extend([nn.Linear(inputs, outputs, bias=False), nn.LeakyReLU(0.05)])
        layers.append(nn.Linear(channels // 2, 1, bias=False))
        return nn.Sequential(OrderedDict(layers=layers))  # likewise

    def fooling_losses(self, adversary: nn.Module, outputs: Tensors) -> dict[str, Tensor]:
        """The network's term: the fused vector should pass for real."""
        logits = adversary(outputs["local"]).float()
        return {"loss": F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))}

    def adversary_loss(self, adversary: nn.Module, outputs: Tensors) -> Tensor:
        """The discriminator's term: real for the whole branch's vector, fake for the fused one."""
        real = adversary(outputs["whole"].detach().float())
        fake = adversary(outputs["local"].detach().float())
        labels = torch.cat((torch.ones_like(real), torch.zeros_like(fake)))
        return F.binary_cross_entropy_with_logits(torch.cat((real, fake)), labels)
