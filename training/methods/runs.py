"""Stage 2: a run for each amount of labels and each initialisation, and the records of finished runs."""

import hashlib
import json
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from common.freshness import code_hash, read_record, write_record
from common.config import Config, Finetune, FinetuneRun
from common.errors import UserError
from common.files import write_text
from common.layout import Layout
from training.data.index import manifest_hash
from training.data.label_subsets import labelled_subset, read_subset
from training.data.provenance import provenance
from training.data.samples import Samples, read_samples
from training.engine.device import announce_training, numerics
from training.engine.distributed import Ranks, joined
from training.engine.resume import Checkpoints
from training.engine.signals import StopRequest, deferred_signals
from training.finetune.initial import initial_classifier, weights_file
from training.finetune.model_selection import ValidationSet, validation_samples
from training.finetune.probe import fit_probe
from training.finetune.region_probe import fit_region_probe
from training.finetune.solved_heads import solve_heads
from training.finetune.student import student_targets
from training.finetune.train import UNIFORM_RATE, TrainingPlan, train
from training.models.attribute_groups import CELEBA_FILE, read_groups
from training.models.attribute_regions import CELEBA_REGIONS, read_regions
from training.models.classifier_file import save_classifier
from training.models.probe import EMBEDDING_PROBE, PROBES, REGION_PROBE, Probe, whole_face_features
from training.models.probe_file import save_probe

CLASSIFIER: Final = "classifier.pt"
RECORD: Final = "run.json"

NOT_RECORDED: Final = {
    *("runs", "initial", "imagenet", "groups", "regions"),
    *("loader_workers", "checkpoint_minutes", "keep_checkpoints"),
}
"""Settings that do not change a run, or that name a file whose content is recorded instead."""


def run_name(initial: str, labels: float | str) -> str:
    """The name of a run and of its folder: ``pretrained-5%``, or ``pretrained-LIST`` for LIST.txt."""
    return f"{initial}-{Path(labels).stem if isinstance(labels, str) else f'{labels * 100:g}%'}"


def finetune(config: Config, layout: Layout, pretrained: Path, output: Path, resume: str = "auto") -> None:
    """Train every configured run on labelled train samples; write a folder per run, and ``runs.json``.

    A run whose record in `output` has the same settings, weights, samples, labels and code is not
    trained again; one that was interrupted continues from its checkpoint, as `resume` says (see
    `Checkpoints.resume`). Under ``torchrun`` all processes share each batch. Samples of val choose the step
    whose weights are kept; those of test are not read. Without a single label there is no classifier: a
    notice is printed and ``runs.json`` is empty.

    Raises:
        UserError: weights, groups or a list of labels are missing or do not fit, a loss is not finite, the
            processes cannot share a batch evenly, or a checkpoint does not fit.
        SystemExit: a signal stopped the run; its state is saved.
    """
    samples = read_samples(layout, ("train",), config.stream.folder)
    settings, entries = config.finetune, []
    with joined() as ranks, deferred_signals(second_interrupts=ranks.world == 1) as request:
        _check_shares(settings, ranks.world)
        if not len(samples.labelled()):
            if ranks.first:
                print("finetune: no sample has a label, so there is no classifier to train")
        else:
            if ranks.first:
                announce_training("finetune", settings.precision, ranks.world)
            runs = _Runs(config, layout, samples, pretrained, output, ranks, request, resume)
            entries = [runs.finish(run, initial) for run in settings.runs for initial in settings.initial]
        if ranks.first:
            write_text(output / "runs.json", json.dumps(entries, indent=2) + "\n")


def _check_shares(settings: Finetune, world: int) -> None:
    sizes = {"batch_size": settings.batch_size}
    if "semi" in settings.initial:
        sizes["semi_supervised.batch_size"] = settings.semi_supervised.batch_size
    if "student" in settings.initial:
        sizes["student.batch_size"] = settings.student.batch_size
    for name, size in sizes.items():
        if world > 1 and (size % world or size < 2 * world):
            raise UserError(
                f"finetune.{name}={size} cannot be divided into {world} equal shares of two or more faces"
            )


class _Runs:
    """What all runs share: the samples and the settings."""

    def __init__(
        self,
        config: Config,
        layout: Layout,
        samples: Samples,
        pretrained: Path,
        output: Path,
        ranks: Ranks,
        request: StopRequest,
        resume: str,
    ) -> None:
        self._ranks, self._request, self._resume = ranks, request, resume
        self._config, self._settings, self._layout = config, config.finetune, layout
        self._pretrained, self._output = pretrained, output
        self._samples, self._labelled = samples, samples.labelled()
        groups = self._settings.groups
        self._groups = read_groups(CELEBA_FILE if groups is None else Path(groups))
        regions = self._settings.regions
        self._regions = read_regions(CELEBA_REGIONS if regions is None else Path(regions))
        self._shards = manifest_hash(layout)

    def finish(self, run: FinetuneRun, initial: str) -> dict[str, Any]:
        """Train one run unless its record is up to date; return its entry of ``runs.json``."""
        name, positions = run_name(initial, run.labels), self._positions(run.labels)
        folder = self._output / name
        inputs = self._inputs(run, initial, positions)
        record = None if self._resume == "never" else read_record(folder / RECORD, inputs)
        if record and (folder / CLASSIFIER).is_file():
            if self._ranks.first:
                print(f"finetune: {name} is up to date; delete {folder} to train it again")
            return dict(record["entry"])
        checkpoints = self._checkpoints(name, inputs)
        if self._ranks.first:
            (folder / RECORD).unlink(missing_ok=True)
        if initial in PROBES:
            result = self._fit(initial, folder, positions)
        else:
            result = self._train(run, initial, positions, folder, checkpoints)
        entry = {
            "name": name,
            "initial": initial,
            "labels": run.labels,
            "faces": len(positions),
            "seed": self._settings.seed,
            **result,
        }
        if self._ranks.first:
            write_record(folder / RECORD, {"entry": entry}, inputs)
        checkpoints.clear()
        return entry

    def _train(
        self,
        run: FinetuneRun,
        initial: str,
        positions: NDArray[np.int64],
        folder: Path,
        checkpoints: Checkpoints,
    ) -> dict[str, Any]:
        """Train a network, write its classifier and return how it went."""
        config, settings = self._config, self._settings
        weights, names = self._weights_file(initial), self._samples.attribute_names
        model = initial_classifier(initial, weights, config.network, names, self._groups, settings.seed)
        plan = self._plan(folder.name, run.steps, initial, positions)
        if settings.solve_heads and initial not in UNIFORM_RATE:
            device = self._ranks.device
            solve_heads(model, plan.labelled, plan.batch_norm, self._val, settings, config.stream, device)
        result = train(
            settings, config.stream, model, plan, self._val, checkpoints, self._resume, self._request
        )
        if self._ranks.first:
            save_classifier(folder / CLASSIFIER, model, self._groups, config, self._provenance)
        return {"steps": plan.steps, "numerics": numerics(settings.precision), **asdict(result)}

    def _fit(self, initial: str, folder: Path, positions: NDArray[np.int64]) -> dict[str, Any]:
        """Fit a probe, write it and return how it went."""
        settings, stream, train = self._settings, self._config.stream, self._labelled.take(positions)
        val = self._probe_val
        probe: Probe
        if initial == REGION_PROBE:
            probe, result = fit_region_probe(train, self._all, val, stream, self._regions, settings.select)
        else:
            features = "embedding" if initial == EMBEDDING_PROBE else whole_face_features(train)
            probe, result = fit_probe(train, val, features, stream)
        if self._ranks.first:
            save_probe(folder / CLASSIFIER, probe, self._config)
        return {"steps": 0, **asdict(result)}

    def _checkpoints(self, name: str, inputs: dict[str, Any]) -> Checkpoints:
        settings = self._settings
        return Checkpoints(
            f"finetune {name}",
            self._output / name / "checkpoints",
            settings.checkpoint_minutes,
            settings.keep_checkpoints,
            self._config,
            {key: value for key, value in inputs.items() if key != "code"},
            inputs["code"],
            self._ranks,
        )

    @cached_property
    def _provenance(self) -> dict[str, Any]:
        return provenance(self._layout, self._samples, self._config)

    @cached_property
    def _val(self) -> ValidationSet:
        config = self._config
        return ValidationSet(self._settings, config.network.input_size, config.stream, self._layout)

    @cached_property
    def _probe_val(self) -> Samples:
        """The samples that choose a probe's penalty."""
        settings = self._settings
        return validation_samples(self._layout, settings.validate_samples if settings.select == "val" else 0)

    @cached_property
    def _all(self) -> Samples:
        """All samples that may be trained on, with and without labels."""
        return read_samples(self._layout, ("train", "unlabelled"), self._config.stream.folder)

    def _plan(self, name: str, steps: int, initial: str, positions: NDArray[np.int64]) -> TrainingPlan:
        settings = self._settings
        labelled = self._labelled.take(positions)
        plan = TrainingPlan(
            name=name,
            initial=initial,
            steps=steps,
            frozen_steps=settings.frozen_steps,
            labelled=labelled,
            targets=labelled.attributes,
            batch_size=settings.batch_size,
            unlabelled=None,
            batch_norm=labelled if settings.batch_norm_faces == "labelled" else self._all,
        )
        if initial == "semi":
            factor = settings.semi_supervised.longer
            frozen_steps = round(factor * settings.frozen_steps)
            return replace(plan, steps=round(factor * steps), frozen_steps=frozen_steps, unlabelled=self._all)
        if initial == "student":
            stream = self._config.stream
            targets = student_targets(labelled, self._all, self._probe_val, settings, stream, self._regions)
            return replace(
                plan,
                steps=settings.student.steps,
                frozen_steps=0,
                labelled=self._all,
                targets=targets,
                batch_size=settings.student.batch_size,
            )
        return plan

    def _positions(self, labels: float | str) -> NDArray[np.int64]:
        if isinstance(labels, str):
            return read_subset(Path(labels), self._labelled)
        return labelled_subset(self._labelled, labels, self._settings.seed)

    def _inputs(self, run: FinetuneRun, initial: str, positions: NDArray[np.int64]) -> dict[str, Any]:
        """Everything that the weights of a run depend on."""
        settings = self._settings.model_dump(mode="json", exclude=NOT_RECORDED)
        for mode, section in (("semi", "semi_supervised"), ("student", "student")):
            if initial != mode:
                del settings[section]
        file = self._weights_file(initial)
        keys = "\n".join(sorted(self._labelled.keys[position] for position in positions))
        return {
            "code": code_hash(__name__),
            "processes": self._ranks.world,
            "shards": self._shards,
            "labelled": hashlib.sha256(keys.encode()).hexdigest(),
            "steps": run.steps,
            "initial": initial,
            "weights": hashlib.sha256(file.read_bytes()).hexdigest() if file and file.is_file() else None,
            "groups": self._groups,
            "regions": self._regions if initial in (REGION_PROBE, "student") else None,
            "network": self._config.network.model_dump(mode="json"),
            "finetune": settings,
        }

    def _weights_file(self, initial: str) -> Path | None:
        return weights_file(initial, self._pretrained, self._settings.imagenet)
