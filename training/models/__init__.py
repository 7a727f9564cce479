"""Networks by name: a backbone, and features for each region of the face."""

from training.models.features import BRANCHES, LOCAL_BRANCHES, Features
from training.models.registry import FaceNetwork, build
from training.models.spl import SplNetwork

__all__ = ["BRANCHES", "LOCAL_BRANCHES", "FaceNetwork", "Features", "SplNetwork", "build"]
