"""The attribute classifier: the network with one linear head per branch, and its loss."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.config import Network
from common.errors import UserError
from training.engine import checkpoint
from training.models import build
from training.models.attribute_groups import Groups, branch_groups

GROUPS: Final = ("backbone", "branches", "heads")
"""Names of a classifier's parameter groups, each of which has a learning rate."""


class Classifier(nn.Module):
    """Attribute logits of faces.

    Attributes:
        config: the network.
        attributes: names, in the order of the logits.

    Args:
        config: as above.
        attributes: as above.
        groups: which branch predicts which, see `branch_groups`; by default CelebA's.
    """

    def __init__(self, config: Network, attributes: Sequence[str], groups: Groups | None = None) -> None:
        super().__init__()
        self.config, self.attributes = config, tuple(attributes)
        self.network = build(config)
        self.groups = branch_groups(attributes, groups)
        self.heads = nn.ModuleDict(
            {branch: nn.Linear(self.network.channels, len(group)) for branch, group in self.groups.items()}
        )
        order = [position for group in self.groups.values() for position in group]
        self.register_buffer("inverse", torch.tensor(order).argsort(), persistent=False)

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits, float (B, A), of normalised pictures, float (B, 3, S, S)."""
        branches = self.network(pictures).branches
        logits = [head(branches[branch].mean(dim=(2, 3))) for branch, head in self.heads.items()]
        inverse = self.get_buffer("inverse")
        return torch.cat(logits, dim=1)[:, inverse]

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """All parameters by the name of their group: those that the network declares, and the heads.

        Raises:
            UserError: the network does not declare each of its parameters in exactly one known group.
        """
        declare = getattr(self.network, "parameter_groups", None)
        groups: dict[str, list[nn.Parameter]] = declare() if declare else {}
        counts = Counter(id(parameter) for group in groups.values() for parameter in group)
        wrong = [name for name, parameter in self.network.named_parameters() if counts[id(parameter)] != 1]
        if wrong or groups.keys() != set(GROUPS[:2]):
            raise UserError(
                f"parameter_groups() of {type(self.network).__name__} must put each of its parameters into "
                f"exactly one of {' and '.join(GROUPS[:2])}; wrong are {', '.join(wrong[:3]) or list(groups)}"
            )
        return {**groups, "heads": list(self.heads.parameters())}


def attribute_loss(logits: Tensor, attributes: Tensor, groups: dict[str, list[int]]) -> Tensor:
    """Binary cross-entropy with logits, a mean over the known labels of each branch, summed.

    Args:
        logits: float (B, A).
        attributes: (B, A) of 0 and 1, or probabilities; -1 is unknown and takes no part.
        groups: positions by branch.
    """
    known = (attributes >= 0).float()
    each = F.binary_cross_entropy_with_logits(
        logits.float(), attributes.clamp(min=0).float(), reduction="none"
    )
    terms = []
    for group in groups.values():
        weight = known[:, group]
        terms.append((each[:, group] * weight).sum() / weight.sum().clamp(min=1))
    return torch.stack(terms).sum()


def load_network(classifier: Classifier, config: Network, state: dict[str, Any]) -> None:
    """Take stem, backbone and branches from a stage 1 checkpoint; the heads stay as they are.

    Raises:
        UserError: the checkpoint is of another network.
    """
    found = state["config"]["network"]
    differing = [
        f"{key}={found.get(key)}" for key, value in config.model_dump().items() if found.get(key) != value
    ]
    if differing:
        raise UserError(
            f"the pre-trained network has {', '.join(differing)}; pre-train again, or set network.* to that"
        )
    classifier.network.load_state_dict(state["network"])


def read_classifier(path: Path) -> Classifier:
    """The classifier that fine-tuning wrote as ``classifier.pt``, on the CPU, in evaluation mode.

    Raises:
        UserError: the file is missing or is no classifier.
    """
    state = checkpoint.load(path)
    try:
        network = Network.model_validate(state["config"]["network"])
        model = Classifier(network, state["attributes"], state.get("groups"))
        model.load_state_dict(state["model"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise UserError(f"{path}: no classifier of this project; fine-tune again ({error})"[:300]) from error
    return model.eval()
