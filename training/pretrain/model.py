"""The model of stage 1, the network with every task that has a weight, and how well it solves them on val.

What no task reads is neither computed nor trained.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.config import Config, Network, Pretrain
from common.layout import Layout
from common.sampling import evenly_spaced
from training.data.loader import Batch, BrokenSamples, load
from training.data.samples import Samples, read_samples
from training.engine.device import autocast, keyed_generator
from training.models import BRANCHES, build
from training.pretrain.tasks import TASKS, PretextTask, read_settings
from training.pretrain.tasks.base import TaskContext, Tensors
from training.pretrain.tasks.patches import CLASS_SETS, Crops, make_crops


@dataclass(frozen=True)
class Example:
    """A micro-batch with all that the model needs of it: samples with patches, and by task the targets."""

    crops: Crops
    targets: dict[str, dict[str, Tensor]]


class PretrainModel(nn.Module):
    """The network and the tasks; a UserError says which settings of a task are wrong."""

    def __init__(self, network: Network, settings: Pretrain) -> None:
        super().__init__()
        configs = read_settings(settings.tasks)
        self.network = build(network)
        takes_rows, classes = self.network.takes_rows, CLASS_SETS[settings.classes]
        context = TaskContext(self.network.channels, network.input_size, takes_rows, classes)
        self.tasks = nn.ModuleDict()
        for name, config in configs.items():
            # Drawn from (seed, name), so that no other task changes the weights.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(keyed_generator(settings.seed, name).initial_seed())
                self.tasks[name] = TASKS[name](config, context)
        self.settings, self.input_size = settings, network.input_size
        self.network.freeze_unread(frozenset[str]().union(*(task.features for task in self.active())))

    def active(self) -> list[PretextTask[Any]]:
        """The tasks that have a weight, in the order of the registry."""
        return [task for task in self.tasks.values() if isinstance(task, PretextTask)]

    def forward(
        self, patches: Tensor, targets: Mapping[str, Mapping[str, Tensor]]
    ) -> dict[str, dict[str, Tensor]]:
        """Outputs by task, of float (B, 3, S, S) patches and, for tasks with images of their own, targets."""
        outputs = {}
        patch_readers = [task for task in self.active() if task.reads_patch]
        if patch_readers:
            features = self.network(patches, branches=_reads_branches(patch_readers))
        for task in self.active():
            if task.reads_patch:
                outputs[task.name] = task(features)
            else:
                images = task.images(targets[task.name])
                outputs[task.name] = task(self.network(images, branches=_reads_branches([task])))
        return outputs

    def members(self) -> frozenset[str]:
        """The members of a sample that the tasks read; the others need not be decoded."""
        return frozenset({"jpg"}).union(*(task.members for task in self.active()))

    def prepare(self, batch: Batch, step: int, micro_batch: int) -> Example:
        """Cut patches and make every task's targets, on the device that the batch lies on.

        Each task, and the patches, draw from generators keyed by (seed, step, micro-batch, name). Patches are
        made whatever the tasks: the averaged network's batch-norm statistics are measured on them.
        """
        key = (self.settings.seed, step, micro_batch)
        crops = make_crops(batch, self.settings, self.input_size, keyed_generator(*key, "crops"))
        targets = {task.name: task.targets(crops, keyed_generator(*key, task.name)) for task in self.active()}
        return Example(crops, targets)

    def losses(
        self, outputs: Mapping[str, Tensors], targets: Mapping[str, Tensors], adversaries: nn.ModuleDict
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted total, and the unweighted terms by ``<task>/loss`` or ``<task>/<term>_loss``."""
        terms, weighted = {}, []
        for task in self.active():
            values = task.losses(outputs[task.name], targets[task.name])
            if task.name in adversaries:
                values |= task.fooling_losses(adversaries[task.name], outputs[task.name])
            for term, value in values.items():
                terms[f"{task.name}/{term}"] = value
                weighted.append(task.config.weight * value)
        return torch.stack(weighted).sum(), terms

    @torch.no_grad()
    def observe(
        self, outputs: Mapping[str, Tensors], targets: Mapping[str, Tensors]
    ) -> dict[str, dict[str, Tensor]]:
        """What the metrics need of one batch, by task."""
        return {task.name: task.observe(outputs[task.name], targets[task.name]) for task in self.active()}

    def scores(
        self, observations: Iterable[Mapping[str, Tensors]], training: bool = False
    ) -> dict[str, float]:
        """Metrics of one or more batches by ``<task>/<metric>``; see `PretextTask.scores`."""
        batches = list(observations)
        return {
            f"{task.name}/{name}": value
            for task in self.active()
            for name, value in task.scores([batch[task.name] for batch in batches], training).items()
        }


def _reads_branches(tasks: Iterable[PretextTask[Any]]) -> bool:
    return any(task.features.intersection(BRANCHES) for task in tasks)


def read_validation_samples(layout: Layout) -> Samples:
    """At most 512 samples of the val split, evenly spread; none if there are too few."""
    samples = read_samples(layout, ("val",))
    count = 512 if len(samples) >= 2 else 0  # batch normalisation needs two
    return samples.take(evenly_spaced(count, len(samples)))


def validate(
    model: PretrainModel, samples: Samples, config: Config, device: torch.device, broken: BrokenSamples
) -> dict[str, float]:
    """The metrics of all tasks on samples, one or more, that they do not learn from, by ``<task>/<metric>``.

    Batches differ by one sample at most in size and hold at least ``pretrain.batch_size`` samples if there
    are so many, so that none is too small for its statistics. Every call has the same draws.
    """
    count = max(1, len(samples) // config.pretrain.batch_size)
    planned = [batch.tolist() for batch in np.array_split(np.arange(len(samples)), count)]
    workers = config.trainer.loader_workers
    batches = load(samples, planned, model.members(), workers, config.stream, broken)

    def observations() -> Iterator[dict[str, dict[str, Tensor]]]:
        for number, batch in enumerate(batches):
            example = model.prepare(batch.to(device), -1, number)  # training's steps are 0 and more
            with batch_statistics(model), autocast(device, config.trainer.precision):
                outputs = model(example.crops.patches, example.targets)
            yield model.observe(outputs, example.targets)

    return model.scores(observations())


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, but each batch is normalised by its own statistics, as in training.

    The inputs of different tasks share the backbone but differ in their statistics; the running ones
    mix them and fit neither. They are not changed here.
    """
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    training = model.training
    model.eval()
    for layer in layers:
        layer.training, layer.track_running_stats = True, False
    try:
        with torch.no_grad():
            yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
        model.train(training)
