"""``scratch``: a network that starts from random weights."""

from typing import Any

from training.methods.method import Context, Method, Run
from training.methods.network import NETWORK_SETTINGS, initial_network, train_network
from training.models.classifier import Classifier


class Scratch(Method):
    """The baseline of networks."""

    name = "scratch"
    title = "from scratch"
    sentence = "A network starts from random weights and sees the labelled faces alone."
    settings = NETWORK_SETTINGS

    def fit(self, context: Context, run: Run) -> tuple[Classifier, dict[str, Any]]:
        """See `Method.fit`."""
        return train_network(context, run, initial_network(context))
