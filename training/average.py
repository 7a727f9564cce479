"""Averaged weights with batch-norm statistics that belong to them.

torch-ema averages parameters only. The running means and variances of batch
normalisation belong to the raw weights, so they are measured anew under the
averaged ones before these are evaluated.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch_ema import ExponentialMovingAverage


def measure_batch_norm(
    network: nn.Module, forward: Callable[[Tensor], object], batches: Iterable[Tensor]
) -> None:
    """Replace all running statistics by plain means over `batches` under the present weights.

    Args:
        network: changed in place; its training mode is kept.
        forward: runs the network on one batch.
        batches: inputs of `forward`.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]
    momenta, modes = [layer.momentum for layer in layers], {m: m.training for m in network.modules()}
    network.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    with torch.no_grad():
        for batch in batches:
            forward(batch)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    for module, mode in modes.items():
        module.training = mode


def take_average(
    average: ExponentialMovingAverage,
    network: nn.Module,
    forward: Callable[[Tensor], object],
    batches: Iterable[Tensor],
) -> None:
    """Give `network` the averaged weights and the batch-norm statistics that belong to them."""
    average.copy_to()
    measure_batch_norm(network, forward, batches)
