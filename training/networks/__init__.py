"""Networks by name: a trunk, and features for each region of the face."""

from training.networks.features import BRANCHES, LOCAL_BRANCHES, Features
from training.networks.registry import FaceNetwork, build
from training.networks.spl import SplNetwork

__all__ = ["BRANCHES", "LOCAL_BRANCHES", "FaceNetwork", "Features", "SplNetwork", "build"]
