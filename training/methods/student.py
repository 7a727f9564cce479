"""``student``: a network of plain pictures that gives the region probe's probabilities.

The region probe reads the features of several networks, so a classifier of plain pictures must learn from it,
after knowledge distillation (Hinton et al. 2015): probabilities say more of a face than a 0 or 1, and every
train face has them. The network is dlib's of face recognition, whatever ``network`` says; only its heads are
learnt, in closed form: ridge regressions of the probabilities' logits.
"""

import time
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from common.config import Config, Network
from common.progress import progress
from common.weights import find
from training.data.loader import BrokenSamples
from training.data.samples import Samples
from training.engine.device import autocast, numerics
from training.methods.method import Context, Run
from training.methods.network import initial_network, network_inputs
from training.methods.region_probe import LEAST, RegionProbeMethod, fit_region_probe
from training.models.attribute_network import AttributeNetwork
from training.models.backbone import DlibBackbone
from training.models.classifier import Classifier, NetworkClassifier, sample_probabilities

BATCH_SIZE: Final = 256
CONSTANT: Final = 1e-8  # Features of a smaller variance are left out
PENALTY: Final = 1.0  # Of the squared weights of standardised features, as a multiple of their number


class Student(RegionProbeMethod):
    """Distillation of the region probe into a network."""

    name = "student"
    title = "student of the region probe"
    sentence = (
        "A network of face recognition whose heads learnt the probabilities that the region probe gives all "
        "train faces, and so needs the picture alone."
    )
    settings = (*RegionProbeMethod.settings, "groups")

    def configured(self, config: Config) -> Config:
        """With the network of face recognition, 440 million multiplications a face."""
        network = Network(name="dlib_face", width=32, stem="large", input_size=200, branch_stage=0)
        return config.model_copy(update={"network": network})

    def fit(self, context: Context, run: Run) -> tuple[Classifier, dict[str, Any]]:
        """See `Method.fit`."""
        started = time.monotonic()
        targets = student_targets(context, run.labelled)
        archive = find("dlib_face", context.config.weights)
        context = replace(context, config=self.configured(context.config))
        model = initial_network(context)
        assert isinstance(model.network.backbone, DlibBackbone)
        model.network.backbone.load(archive)
        loss = solve_heads(context, model, targets)
        classifier = NetworkClassifier(attributes=model.attributes, model=model.cpu())
        return classifier, {
            "steps": 0,
            "numerics": numerics(context.config.trainer.precision),
            "seconds": round(time.monotonic() - started, 1),
            "loss": round(loss, 4),
        }


@torch.no_grad()
def solve_heads(context: Context, model: AttributeNetwork, targets: NDArray[np.float32]) -> float:
    """Set the weights and biases of all heads; gives what is left of the logits' variance, and the penalty.

    The targets, float32 (N, A), are probabilities of all train faces. The model moves to the run's device.
    """
    device, config, faces = context.ranks.device, context.config, context.all_faces
    model.to(device).to(memory_format=torch.channels_last).eval()
    width, (count, attributes) = model.network.channels, targets.shape
    sums = torch.zeros(width, dtype=torch.float64, device=device)
    products = torch.zeros(width, width, dtype=torch.float64, device=device)
    moments = torch.zeros(width, attributes, dtype=torch.float64, device=device)
    logits = torch.from_numpy(targets).to(device).clamp(LEAST, 1 - LEAST).logit()
    centre = logits.mean(0)
    logits -= centre
    bar, broken = progress("heads", count, "faces"), BrokenSamples(config.stream.max_broken)
    for inputs, indices in network_inputs(context, model, faces, BATCH_SIZE, broken):
        with autocast(device, config.trainer.precision):
            pooled = model.network(inputs).backbone.float().mean(dim=(2, 3))
        sums += pooled.sum(0)
        products += pooled.T @ pooled
        moments += pooled.T @ logits[indices]
        bar.update(len(inputs))
    bar.close()
    mean = sums / count
    products -= count * torch.outer(mean, mean)
    variance = products.diagonal() / count
    scale = torch.where(variance > CONSTANT, variance.clamp(min=CONSTANT).rsqrt(), 0.0)
    moments *= scale[:, None]
    products *= scale[:, None]
    products *= scale
    products.diagonal().add_(PENALTY * width)
    moments, factor = moments.float(), torch.linalg.cholesky(products.float())
    solved = torch.cholesky_solve(moments, factor)
    weights = (solved.double() * scale[:, None]).T
    biases = centre - weights @ mean
    for branch, group in model.groups.items():
        model.heads[branch].load_state_dict({"weight": weights[group], "bias": biases[group]})
    return (logits.square().sum() - (moments * solved).sum()).item() / logits.numel()


def student_targets(context: Context, labelled: Samples) -> NDArray[np.float32]:
    """Targets of all train faces, float32 (N, A), 0 to 1: the probabilities of a probe of `labelled`."""
    stream, every_face = context.config.stream, context.all_faces
    keys, probe = context.latest.get(RegionProbeMethod.name, ((), None))
    if probe is None or keys != tuple(labelled.keys):
        probe, _ = fit_region_probe(labelled, every_face, stream, context.regions)
    return sample_probabilities(probe, every_face, stream, BATCH_SIZE, "targets").astype(np.float32)
