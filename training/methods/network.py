"""What the methods that train a network share: the initial network, the learning rates, the training."""

from dataclasses import asdict
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from common.config import Finetune
from common.errors import UserError
from training.engine.device import numerics
from training.engine.seeds import set_seed
from training.finetune.train import TrainingPlan, train
from training.methods.method import Context, Run
from training.models.attribute_network import GROUPS, AttributeNetwork
from training.models.classifier import Classifier, NetworkClassifier

NETWORK_SETTINGS: Final = (
    *("batch_size", "learning_rate", "schedule", "average_decay"),
    *("select", "validate_every", "groups"),
)
"""Settings of ``finetune`` that all these methods read."""

TRAINED_SETTINGS: Final = ("backbone_rate", "heads_rate", "solve_heads")
"""Those of methods that train published or pre-trained weights further."""


def initial_network(context: Context) -> AttributeNetwork:
    """The configured network with random weights, the same for the same seed."""
    set_seed(context.settings.seed)
    return AttributeNetwork(context.config.network, context.train.attribute_names, context.groups)


def trained_rates(settings: Finetune) -> dict[str, float]:
    """Factors on the learning rate of each parameter group of trained weights; 0 freezes the group."""
    return {"backbone": settings.backbone_rate, "branches": 1.0, "heads": settings.heads_rate}


def train_network(
    context: Context,
    run: Run,
    model: AttributeNetwork,
    rates: dict[str, float] | None = None,
    targets: NDArray[np.float32] | None = None,
    batch_size: int | None = None,
) -> tuple[Classifier, dict[str, Any]]:
    """Train `model` and give the averaged weights that score best on val; see `Method.fit`.

    Args:
        context, run: what is trained on.
        model: changed in place.
        rates: factors on the learning rate by parameter group; None: all 1.
        targets: float32 (N, A) of the run's faces, probabilities, -1 where unknown; None: their labels.
        batch_size: None: ``finetune.batch_size``.

    Raises:
        UserError: the processes cannot share a batch evenly, or a loss is not finite.
        SystemExit: a signal stopped the run; its state is saved.
    """
    config, settings, world = context.config, context.settings, context.ranks.world
    size = settings.batch_size if batch_size is None else batch_size
    if world > 1 and (size % world or size < 2 * world):
        raise UserError(
            f"{run.name}: batches of {size} faces cannot be divided into {world} equal parts of two or more; "
            "change finetune.batch_size or the number of processes"
        )
    factors = rates or dict.fromkeys(GROUPS, 1.0)
    plan = TrainingPlan(
        name=run.name,
        rates={name: factor * settings.learning_rate for name, factor in factors.items()},
        steps=run.steps,
        labelled=run.labelled,
        targets=run.labelled.attributes if targets is None else targets,
        batch_size=size,
        batch_norm=context.all_faces,
    )
    result = train(
        config, model, plan, context.validation_set, run.checkpoints, context.resume, context.request
    )
    classifier = NetworkClassifier(
        attributes=model.attributes,
        model=model.cpu(),
        groups=context.groups,
    )
    precision = config.trainer.precision
    return classifier, {"steps": plan.steps, "numerics": numerics(precision), **asdict(result)}
