"""Networks by name, and the classifiers on top of them.

Every network has ``channels`` (C of its last features), ``takes_rows`` (whether the rotation
task feeds rows of patches to the local branches), ``forward(images, branches=True)`` giving
`Features`, ``parameter_groups()``, which gives all parameters as ``backbone`` and ``branches``,
and ``freeze_unread(read)``, which stops the training of what no task's gradient reaches
(``read`` names branches, or ``backbone``).
"""

from torch import nn

from common.config import Network
from training.models.backbone import BackboneNetwork, DlibBackbone, image_stem, residual_stages
from training.models.blocks import BRANCHES, LOCAL_BRANCHES, Features, initialise
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
    # At width 64 it is torchvision's, without its classifier.
    stem = image_stem(config.width, config.stem)
    backbone = nn.Sequential(stem, *residual_stages(config.name, config.width))
    initialise(backbone)
    return BackboneNetwork(backbone, config.width * (32 if config.name == "resnet50" else 8))
