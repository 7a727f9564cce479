"""``pretrained``: a network that starts from the weights of stage 1."""

from typing import Any

from training.methods.method import Context, Method, Run
from training.methods.network import (
    NETWORK_SETTINGS,
    TRAINED_SETTINGS,
    initial_network,
    train_network,
    trained_rates,
)
from training.methods.solved_heads import solve_heads
from training.models.classifier import Classifier
from training.models.pretrained import load_pretrained


class Pretrained(Method):
    """The method of the papers."""

    name = "pretrained"
    title = "pre-trained"
    sentence = (
        "A network that was pre-trained on faces without labels is trained further on the labelled ones."
    )
    settings = (*NETWORK_SETTINGS, *TRAINED_SETTINGS)
    pretrained = True

    def fit(self, context: Context, run: Run) -> tuple[Classifier, dict[str, Any]]:
        """See `Method.fit`."""
        model = initial_network(context)
        assert run.weights is not None
        load_pretrained(model.network, context.config.network, run.weights)
        if context.settings.solve_heads:
            solve_heads(context, model, run.labelled)
        return train_network(context, run, model, rates=trained_rates(context.settings))
