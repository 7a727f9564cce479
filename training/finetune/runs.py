"""Stage 2: a run for each amount of labels and each initialisation, and the records of finished runs."""

import hashlib
import json
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from common.code import code_hash
from common.config import Config, FinetuneRun
from common.files import write_text
from common.layout import Layout
from training.data.label_subsets import labelled_subset, read_subset
from training.data.provenance import provenance
from training.data.samples import Samples, manifest_hash, read_samples
from training.engine.device import announce_training, numerics
from training.engine.record import read_record, write_record
from training.finetune.initial import initial_classifier, weights_file
from training.finetune.model_selection import ValidationSet, validation_samples
from training.finetune.probe import fit_probe
from training.finetune.train import TrainingPlan, train
from training.models.attribute_groups import CELEBA_FILE, read_groups
from training.models.classifier_file import save_classifier
from training.models.probe import PROBE, save_probe

CLASSIFIER: Final = "classifier.pt"
RECORD: Final = "run.json"

NOT_RECORDED: Final = {"runs", "initial", "imagenet", "groups", "loader_workers"}
"""Settings that do not change a run, or that name a file whose content is recorded instead."""


def run_name(initial: str, labels: float | str) -> str:
    """The name of a run and of its folder: ``pretrained-5%``, or ``pretrained-LIST`` for LIST.txt."""
    return f"{initial}-{Path(labels).stem if isinstance(labels, str) else f'{labels * 100:g}%'}"


def finetune(config: Config, layout: Layout, pretrained: Path, output: Path) -> None:
    """Train every configured run on labelled train samples; write a folder per run, and ``runs.json``.

    A run whose record in `output` has the same settings, weights, samples, labels and code is not
    trained again. Samples of val choose the step whose weights are kept; those of test are not read.
    Without a single label there is no classifier: a notice is printed and ``runs.json`` is empty.

    Raises:
        UserError: weights, groups or a list of labels are missing or do not fit, or a loss is not finite.
    """
    samples = read_samples(layout, ("train",))
    output.mkdir(parents=True, exist_ok=True)
    entries = []
    if not len(samples.labelled()):
        print("finetune: no sample has a label, so there is no classifier to train")
    else:
        announce_training("finetune", config.finetune.precision)
        runs = _Runs(config, layout, samples, pretrained, output)
        settings = config.finetune
        entries = [runs.finish(run, initial) for run in settings.runs for initial in settings.initial]
    write_text(output / "runs.json", json.dumps(entries, indent=2) + "\n")


class _Runs:
    """What all runs share: the samples and the settings."""

    def __init__(
        self, config: Config, layout: Layout, samples: Samples, pretrained: Path, output: Path
    ) -> None:
        self._config, self._settings, self._layout = config, config.finetune, layout
        self._pretrained, self._output = pretrained, output
        self._samples, self._labelled = samples, samples.labelled()
        groups = self._settings.groups
        self._groups = read_groups(CELEBA_FILE if groups is None else Path(groups))
        self._shards = manifest_hash(layout)

    def finish(self, run: FinetuneRun, initial: str) -> dict[str, Any]:
        """Train one run unless its record is up to date; return its entry of ``runs.json``."""
        name, positions = run_name(initial, run.labels), self._positions(run.labels)
        folder = self._output / name
        inputs = self._inputs(run, initial, positions)
        record = read_record(folder / RECORD, inputs)
        if record and (folder / CLASSIFIER).is_file():
            print(f"finetune: {name} is up to date; delete {folder} to train it again")
            return dict(record["entry"])
        folder.mkdir(exist_ok=True)
        (folder / RECORD).unlink(missing_ok=True)
        result = (
            self._fit(folder, positions) if initial == PROBE else self._train(run, initial, positions, folder)
        )
        entry = {
            "name": name,
            "initial": initial,
            "labels": run.labels,
            "faces": len(positions),
            "seed": self._settings.seed,
            **result,
        }
        write_record(folder / RECORD, {"entry": entry}, inputs)
        return entry

    def _train(
        self, run: FinetuneRun, initial: str, positions: NDArray[np.int64], folder: Path
    ) -> dict[str, Any]:
        """Train a network, write its classifier and return how it went."""
        network = self._config.network
        model = initial_classifier(
            initial,
            self._weights_file(initial),
            network,
            self._samples.attribute_names,
            self._groups,
            self._settings.seed,
        )
        plan = self._plan(folder.name, run.steps, initial, positions)
        result = train(self._settings, self._config.stream, model, plan, self._val)
        metadata = provenance(self._layout, self._config.align, self._config.ingest)
        save_classifier(folder / CLASSIFIER, model, self._groups, self._config, metadata)
        return {"steps": plan.steps, "numerics": numerics(self._settings.precision), **asdict(result)}

    def _fit(self, folder: Path, positions: NDArray[np.int64]) -> dict[str, Any]:
        """Fit a probe, write it and return how it went."""
        val = validation_samples(self._layout, self._settings.validate_samples)
        probe, result = fit_probe(self._labelled.take(positions), val, self._config.stream)
        save_probe(folder / CLASSIFIER, probe, self._config)
        return {"steps": 0, **asdict(result)}

    @cached_property
    def _val(self) -> ValidationSet:
        config = self._config
        return ValidationSet(self._settings, config.network.input_size, config.stream, self._layout)

    @cached_property
    def _all(self) -> Samples:
        """All samples that may be trained on, with and without labels."""
        return read_samples(self._layout, ("train", "unlabelled"))

    def _plan(self, name: str, steps: int, initial: str, positions: NDArray[np.int64]) -> TrainingPlan:
        semi = initial == "semi"
        factor = self._settings.semi_supervised.longer if semi else 1.0
        labelled = self._labelled.take(positions)
        return TrainingPlan(
            name=name,
            initial=initial,
            steps=round(factor * steps),
            frozen_steps=round(factor * self._settings.frozen_steps),
            labelled=labelled,
            unlabelled=self._all if semi else None,
            batch_norm=labelled if self._settings.batch_norm_faces == "labelled" else self._all,
        )

    def _positions(self, labels: float | str) -> NDArray[np.int64]:
        if isinstance(labels, str):
            return read_subset(Path(labels), self._labelled)
        return labelled_subset(self._labelled, labels, self._settings.seed)

    def _inputs(self, run: FinetuneRun, initial: str, positions: NDArray[np.int64]) -> dict[str, Any]:
        """Everything that the weights of a run depend on."""
        settings = self._settings.model_dump(mode="json", exclude=NOT_RECORDED)
        if initial != "semi":
            del settings["semi_supervised"]
        file = self._weights_file(initial)
        keys = "\n".join(sorted(self._labelled.keys[position] for position in positions))
        return {
            "code": code_hash(__name__),
            "shards": self._shards,
            "labelled": hashlib.sha256(keys.encode()).hexdigest(),
            "steps": run.steps,
            "initial": initial,
            "weights": hashlib.sha256(file.read_bytes()).hexdigest() if file and file.is_file() else None,
            "groups": self._groups,
            "network": self._config.network.model_dump(mode="json"),
            "finetune": settings,
        }

    def _weights_file(self, initial: str) -> Path | None:
        return weights_file(initial, self._pretrained, self._settings.imagenet)
