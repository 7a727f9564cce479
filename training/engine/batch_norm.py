"""Batch-norm statistics: measured anew under averaged weights, or taken from each batch."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


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


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Evaluate `model`, but normalise each batch by its own statistics, as in training.

    Patches and tiles share the backbone and differ in their statistics; the running ones mix both
    and fit neither. They are not changed here.
    """
    modes = {module: module.training for module in model.modules()}
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    model.eval()
    for layer in layers:
        layer.training, layer.track_running_stats = True, False
    try:
        with torch.no_grad():
            yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
        for module, mode in modes.items():
            module.training = mode
