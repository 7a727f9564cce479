"""Networks by name: a shared trunk and one branch per region of the face."""

from training.networks.spl import BRANCHES, Features, SplNetwork, build

__all__ = ["BRANCHES", "Features", "SplNetwork", "build"]
