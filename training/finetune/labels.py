"""``--labels``: other amounts of supervision than those of ``finetune.runs``."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from common.config import Finetune, FinetuneRun
from common.errors import UserError
from common.layout import Layout
from training.data.label_subsets import labelled_subset, read_subset, share
from training.data.samples import Samples, read_samples


def runs_for(labels: Sequence[str], settings: Finetune, layout: Layout) -> list[FinetuneRun]:
    """A run for each entry of `labels`; without a labelled sample, the configured runs.

    Each has as many steps as that configured run whose number of labels is nearest by ratio.

    Args:
        labels: shares such as ``5%``, or paths of lists that ``training.subsets`` wrote.
        settings: the configured runs and the seed of label subsets.
        layout: the shards that the lists refer to.

    Raises:
        UserError: an entry is neither a share nor a file, or a list does not fit the shards.
    """
    labelled = read_samples(layout, ("train",)).labelled()
    if not len(labelled):
        return settings.runs
    configured = [(_count(run.labels, labelled, settings.seed), run.steps) for run in settings.runs]

    def run_for(text: str) -> FinetuneRun:
        entry = _parse(text)
        count = _count(entry, labelled, settings.seed)
        _, steps = min(configured, key=lambda other: abs(math.log(other[0] / count)))
        return FinetuneRun(labels=entry, steps=steps)

    return [run_for(text) for text in labels]


def _parse(text: str) -> float | str:
    if Path(text).is_file():
        return text
    try:
        return share(text)
    except argparse.ArgumentTypeError as error:
        raise UserError(f"--labels {text}: no such file, and {error}") from error


def _count(labels: float | str, labelled: Samples, seed: int) -> int:
    if isinstance(labels, str):
        return len(read_subset(Path(labels), labelled))
    return len(labelled_subset(labelled, labels, seed))
