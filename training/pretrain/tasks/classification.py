"""PCT, the patch classification task: which classes dominate a patch.

The target marks the classes with the most pixels in the patch's mask; each branch predicts its own group.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.cell_counts import dominant_classes
from common.pipeline_config import Positive
from training.engine.objective import mean_average_precision
from training.models import BRANCHES, Features
from training.pretrain.tasks.base import PretextTask, TaskConfig, TaskContext, TaskMetric, Tensors, mean_of
from training.pretrain.tasks.patches import Crops


class ClassificationConfig(TaskConfig):
    """Settings of the classification."""

    top_classes: Positive
    """how many of the largest classes count as present, v in the papers"""


class ClassificationTask(PretextTask[ClassificationConfig]):
    """Binary cross-entropy of the dominant classes, branch by branch.

    Targets: ``classes``, float32 (B, K) of 0 and 1. Outputs: by branch, float (B, classes of the branch).
    """

    name = "classification"
    abbreviation = "PCT"
    title = "Patch classification"
    config_class = ClassificationConfig
    features = frozenset(BRANCHES)
    members = frozenset({"mask.png"})

    def __init__(self, config: ClassificationConfig, context: TaskContext) -> None:
        super().__init__(config, context)
        channels, groups = context.channels, context.classes.branches
        heads = nn.ModuleDict({name: nn.Linear(channels, len(groups[name])) for name in BRANCHES})
        self.head = nn.ModuleDict({"heads": heads})  # the names in checkpoints

    def targets(self, crops: Crops, generator: torch.Generator) -> dict[str, Tensor]:
        """The dominant classes of the patches; nothing is drawn."""
        pixels = crops.patch_masks.flatten(1).long()
        # A GPU waits for the host in `bincount`, whose result has a length that depends on the values.
        counts = pixels.new_zeros(len(pixels), len(self.context.classes.names))
        counts.scatter_add_(1, pixels, torch.ones_like(pixels))
        return {"classes": dominant_classes(counts, self.config.top_classes).float()}

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Logits by branch."""
        heads = self.head["heads"].named_children()
        return {name: head(features.branches[name].mean(dim=(2, 3))) for name, head in heads}

    def losses(self, outputs: Tensors, targets: Tensors) -> dict[str, Tensor]:
        """The branches' binary cross-entropies, summed."""
        return {"loss": classification_loss(outputs, targets["classes"], self.context.classes.branches)}

    def metrics(self) -> tuple[TaskMetric, ...]:
        """Mean average precision, and the share of correct decisions at probability 0.5."""
        return (
            TaskMetric("average_precision", "mean average precision", average_precision, in_training=False),
            TaskMetric("accuracy", "accuracy", mean_of("correct")),
        )

    def observe(self, outputs: Tensors, targets: Tensors) -> dict[str, Tensor]:
        """Targets, logits and correct decisions, (B, K) each, classes in the order of their numbers."""
        groups = self.context.classes.branches
        order = torch.tensor([number for group in groups.values() for number in group])
        joined = torch.cat([outputs[name].detach().float() for name in groups], dim=1)
        scores = joined[:, order.argsort().to(joined.device)].cpu()
        classes = targets["classes"].cpu()
        return {"targets": classes, "scores": scores, "correct": (scores > 0) == classes.bool()}


def classification_loss(logits: Tensors, targets: Tensor, classes: dict[str, tuple[int, ...]]) -> Tensor:
    """Binary cross-entropy with logits, one mean per branch, summed.

    Logits are float (B, classes of the branch) by branch, targets float (B, K), 0 or 1.
    """
    terms = [
        F.binary_cross_entropy_with_logits(logits[name].float(), targets[:, list(classes[name])])
        for name in logits
    ]
    return torch.stack(terms).sum()


def average_precision(observed: Tensors) -> float | None:
    """Mean over the classes that are present in some patches and absent in others; None without any."""
    targets = observed["targets"].numpy().astype(np.int8)
    return mean_average_precision(targets, observed["scores"].numpy())
