"""Networks by name, and the classifiers on top of them.

Every network has ``channels`` (C of its last features), ``takes_rows`` (whether the rotation
task feeds rows of patches to the local branches), ``forward(images, branches=True)`` giving
`Features`, ``parameter_groups()``, which gives all parameters as ``backbone`` and ``branches``,
and ``freeze_unread(read)``, which stops the training of what no task's gradient reaches
(``read`` names branches, or ``backbone``).
"""

from common.config import Network
from training.models.backbone import BackboneNetwork, DlibBackbone, residual_backbone
from training.models.blocks import BRANCHES, LOCAL_BRANCHES, Features
from training.models.spl import SplNetwork, SsplNetwork

__all__ = ["BRANCHES", "LOCAL_BRANCHES", "FaceNetwork", "Features", "SplNetwork", "build"]

FaceNetwork = SplNetwork | SsplNetwork | BackboneNetwork


def build(config: Network) -> FaceNetwork:
    """The network that the configuration names, with random weights."""
    if config.name == "spl":
        return SplNetwork(config.width, config.stem, config.branch_stage)
    if config.name == "sspl":
        return SsplNetwork(config.width, config.stem)
    if config.name == "dlib_face":
        return BackboneNetwork(DlibBackbone(), DlibBackbone.channels)
    return BackboneNetwork(*residual_backbone(config.name, config.width, config.stem))
