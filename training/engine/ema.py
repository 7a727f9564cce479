"""Averaged weights with batch-norm statistics that belong to them.

torch-ema averages parameters only. The running means and variances of batch normalisation belong to
the raw weights, so they are measured again under the averaged ones before these are evaluated.
"""

from collections.abc import Callable, Iterable

from torch import Tensor, nn
from torch_ema import ExponentialMovingAverage

from training.engine.batch_norm import measure_batch_norm


def take_average(
    average: ExponentialMovingAverage,
    network: nn.Module,
    forward: Callable[[Tensor], object],
    batches: Iterable[Tensor],
) -> None:
    """Give `network` the averaged weights, and measure batch-norm statistics for them on `batches`."""
    average.copy_to()
    measure_batch_norm(network, forward, batches)
