"""``pretrained``: a network that starts from the weights of stage 1."""

from typing import Any

from training.methods.method import Context, Method, Run
from training.methods.network import (
    NETWORK_SETTINGS,
    initial_network,
    start_from_stage_1,
    train_network,
)
from training.methods.solved_heads import solve_heads
from training.models.attribute_network import AttributeNetwork
from training.models.classifier import Classifier


class Pretrained(Method):
    """The method of the papers."""

    name = "pretrained"
    title = "pre-trained"
    sentence = (
        "A network that was pre-trained on faces without labels is trained further on the labelled ones."
    )
    settings = (*NETWORK_SETTINGS, "backbone_rate", "heads_rate", "solve_heads")
    pretrained = True

    def fit(self, context: Context, run: Run) -> tuple[Classifier, dict[str, Any]]:
        """See `Method.fit`."""
        model, settings = initial_network(context), context.settings
        self.start(context, run, model)
        if settings.solve_heads:
            solve_heads(context, model, run.labelled)
        rates = {"backbone": settings.backbone_rate, "branches": 1.0, "heads": settings.heads_rate}
        return train_network(context, run, model, rates=rates)

    def start(self, context: Context, run: Run, model: AttributeNetwork) -> None:
        """Load the weights that it starts from into the network of `model`.

        Raises:
            UserError: the file cannot be read or does not fit.
        """
        start_from_stage_1(context, run, model)
