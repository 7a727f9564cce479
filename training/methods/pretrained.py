"""``pretrained``: a network that starts from the weights of stage 1, with heads that are solved."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim.swa_utils import update_bn

from common.sampling import evenly_spaced
from training.data.loader import BrokenSamples
from training.data.samples import Samples
from training.engine.device import autocast
from training.methods.method import BATCH_SIZE, Context, Method, Run
from training.methods.network import NETWORK_SETTINGS, initial_network, network_inputs, train_network
from training.methods.probe import logistic_regressions, standardisation
from training.models.attribute_network import AttributeNetwork
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
        # The trainer gives the other processes the weights; they may have no file in an output of their own.
        with context.ranks.failing_together():
            if context.ranks.first:
                assert run.weights is not None
                load_pretrained(model.network, context.config.network, run.weights)
        if settings.solve_heads:
            solve_heads(context, model, run.labelled)
        rates = {"backbone": settings.backbone_rate, "branches": 1.0, "heads": settings.heads_rate}
        return train_network(context, run, model, rates)


def solve_heads(context: Context, model: AttributeNetwork, labelled: Samples) -> None:
    """Set the weights and biases of all heads, and the running statistics of batch norm.

    Random heads send random gradients into trained branches until they are learnt (linear probing before
    fine-tuning, Kumar et al. 2022). Each branch's head is the L2-regularised logistic regression on its
    pooled features instead, with batch-norm statistics of all train faces. The model moves to the device.

    Raises:
        UserError: more samples are broken than ``stream.max_broken``; others take the place of these.
    """
    config, device = context.config, context.ranks.device
    model.to(device).to(memory_format=torch.channels_last)
    broken = BrokenSamples(config.stream.max_broken)

    @torch.no_grad()
    def pooled(samples: Samples) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.int64]]:
        """What each head reads of all samples, (N, C), by branch, and their indices, (N,)."""
        features, indices = [], []
        for inputs, read in network_inputs(context, model, samples, BATCH_SIZE, broken):
            with autocast(device, config.trainer.precision):
                features.append(model.pooled(inputs))
            indices.append(read)
        joined = {name: torch.cat([each[name] for each in features]) for name in features[0]}
        by_branch = {name: each.double().cpu().numpy() for name, each in joined.items()}
        return by_branch, torch.cat(indices).numpy()

    reference = context.all_faces.take(evenly_spaced(640, len(context.all_faces)))
    with autocast(device, config.trainer.precision):
        inputs = network_inputs(context, model, reference, BATCH_SIZE, broken)
        update_bn((images for images, _ in inputs), model)
    model.eval()
    of_reference, _ = pooled(reference)
    # The training that follows sees all labelled faces.
    train = labelled.take(evenly_spaced(2000, len(labelled)))
    of_train, read = pooled(train)
    for branch, group in model.groups.items():
        mean, scale = standardisation(of_reference[branch])
        standardised, labels = (of_train[branch] - mean) * scale, train.attributes[read][:, group]
        ((weights, biases),) = logistic_regressions(standardised, labels, (1e-3,))
        weights, biases = weights * scale[:, None], biases - (mean * scale) @ weights
        state = {"weight": torch.from_numpy(weights.T), "bias": torch.from_numpy(biases)}
        model.heads[branch].load_state_dict(state)
