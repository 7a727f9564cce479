"""Batch-norm statistics: measured again for averaged weights, or computed from each batch."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def measure_batch_norm(
    network: nn.Module, forward: Callable[[Tensor], object], batches: Iterable[Tensor]
) -> None:
    """Replace all running statistics by their means over `batches` under the current weights.

    After averaged weights were copied in, since torch-ema averages parameters only, not statistics.

    Args:
        network: changed in place; the training mode of each module is kept.
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
    """Evaluation mode, but each batch is normalised by its own statistics, as in training.

    The inputs of different tasks share the backbone but differ in their statistics; the running ones
    mix them and fit neither. They are not changed here.
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
