"""From a name in the configuration to a network.

Every network has ``channels`` (C of its last features), ``takes_rows`` (whether the rotation
task feeds rows of tiles to the local branches), ``forward(pictures, branches=True)`` giving
`Features`, and ``train_trunk_alone()`` for runs whose tasks never read the branches.
"""

from contract.config import Network
from training.networks.spl import SplNetwork
from training.networks.sspl import SsplNetwork
from training.networks.trunk import TIMM, TrunkNetwork, residual_trunk, timm_trunk

FaceNetwork = SplNetwork | SsplNetwork | TrunkNetwork

PUBLISHED_WIDTH = 64


def build(config: Network, recompute: bool = False) -> FaceNetwork:
    """The network that the configuration names, with random weights.

    Args:
        config: name, width and stem.
        recompute: compute the cross-attention units again in the backward pass instead of
            keeping their activations (``spl`` and ``sspl``; plain trunks have none).

    Raises:
        UserError: timm is not installed, or does not know the model.
    """
    if config.name.startswith(TIMM):
        return TrunkNetwork(*timm_trunk(config.name.removeprefix(TIMM)))
    width = PUBLISHED_WIDTH if config.width is None else config.width
    if config.name == "spl":
        return SplNetwork(width, config.stem, recompute)
    if config.name == "sspl":
        return SsplNetwork(width, config.stem, recompute)
    return TrunkNetwork(*residual_trunk(config.name, width, config.stem))
