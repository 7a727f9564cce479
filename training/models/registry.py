"""From a name in the configuration to a network.

Every network has ``channels`` (C of its last features), ``takes_rows`` (whether the rotation
task feeds rows of patches to the local branches), ``forward(images, branches=True)`` giving
`Features`, ``parameter_groups()``, which gives all parameters as ``backbone`` and ``branches``,
and ``freeze_unread(read)``, which stops the training of what no task's gradient reaches
(``read`` names branches, or ``backbone``).
"""

from common.config import Network
from training.models.backbone import TIMM, BackboneNetwork, residual_backbone, timm_backbone
from training.models.spl import SplNetwork
from training.models.sspl import SsplNetwork

FaceNetwork = SplNetwork | SsplNetwork | BackboneNetwork

PUBLISHED_WIDTH = 64


def build(config: Network) -> FaceNetwork:
    """The network that the configuration names, with random weights.

    Args:
        config: name, width and stem.

    Raises:
        UserError: timm is not installed, or does not know the model.
    """
    if config.name.startswith(TIMM):
        return BackboneNetwork(*timm_backbone(config.name.removeprefix(TIMM)))
    width = PUBLISHED_WIDTH if config.width is None else config.width
    if config.name == "spl":
        return SplNetwork(width, config.stem, config.branch_stage)
    if config.name == "sspl":
        return SsplNetwork(width, config.stem)
    return BackboneNetwork(*residual_backbone(config.name, width, config.stem))
