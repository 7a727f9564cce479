"""``pretrained``: a network that starts from the weights of stage 1."""

from pathlib import Path
from typing import Any

from common.config import Network
from training.methods.method import Context, Method, Run
from training.methods.network import NETWORK_SETTINGS, initial_network, train_network
from training.methods.solved_heads import solve_heads
from training.models import FaceNetwork
from training.models.classifier import Classifier
from training.models.pretrained import load_pretrained


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
        assert run.weights is not None
        self.load(model.network, context.config.network, run.weights)
        if settings.solve_heads:
            solve_heads(context, model, run.labelled)
        rates = {"backbone": settings.backbone_rate, "branches": 1.0, "heads": settings.heads_rate}
        return train_network(context, run, model, rates=rates)

    def load(self, network: FaceNetwork, config: Network, file: Path) -> None:
        """Load the weights in `file` into `network`, whose settings are `config`.

        Raises:
            UserError: the file cannot be read or does not fit.
        """
        load_pretrained(network, config, file)
