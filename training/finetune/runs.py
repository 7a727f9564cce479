"""Stage 2: attribute recognition from few labels, from stage 1's weights, ImageNet's, or from scratch."""

import argparse
import hashlib
import json
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from common.config import Config, FinetuneRun
from common.errors import UserError
from common.files import write_text
from common.layout import Layout
from training.data.label_subsets import labelled_subset, read_subset, share
from training.data.provenance import facts_of
from training.data.samples import Samples, manifest_hash, read_samples
from training.engine import checkpoint
from training.engine.seeds import set_seed
from training.finetune.model_selection import ValidationSamples
from training.finetune.train import Run, fit
from training.models.attribute_groups import CELEBA_FILE, read_groups
from training.models.classifier import Classifier, load_network
from training.models.imagenet import load_imagenet
from training.models.pretrained import read_exported

FROM_STAGE_1: Final = ("pretrained", "semi")
"""Initialisations that take stage 1's weights."""

NOT_COMPARED: Final = {"runs", "initial", "imagenet", "groups", "loader_workers"}
"""Settings that do not change a run; which file they name is compared by what is in it."""


def run_name(initial: str, run: FinetuneRun) -> str:
    """The name of a run and of its folder, such as ``pretrained-5%``, or ``pretrained-LIST`` for LIST.txt."""
    labels = Path(run.labels).stem if isinstance(run.labels, str) else f"{run.labels * 100:g}%"
    return f"{initial}-{labels}"


def with_labels(config: Config, layout: Layout, labels: Sequence[str]) -> Config:
    """The configuration with one run per entry of `labels` instead of its own runs.

    Args:
        config: its runs give the steps: those of the run whose share of the labels is nearest by ratio.
        layout: where the faces of a list are looked up.
        labels: shares such as ``5%``, or paths of lists.

    Raises:
        UserError: an entry is neither, or a list does not fit the shards.

    Without a labelled face the configuration stays as it is, since nothing is trained.
    """
    faces = read_samples(layout, ("train",)).labelled()
    if not len(faces):
        return config

    def count(entry: float | str) -> int:
        if isinstance(entry, str):
            return len(read_subset(Path(entry), faces))
        return len(labelled_subset(faces, entry, config.finetune.seed))

    given = [(count(run.labels), run.steps) for run in config.finetune.runs]

    def run_of(word: str) -> FinetuneRun:
        entry: float | str = word
        if not Path(word).is_file():
            try:
                entry = share(word)
            except argparse.ArgumentTypeError as error:
                raise UserError(f"--labels {word}: no such file, and {error}") from error
        faces_of = count(entry)
        return FinetuneRun(labels=entry, steps=min(given, key=lambda g: abs(math.log(g[0] / faces_of)))[1])

    settings = config.finetune.model_copy(update={"runs": [run_of(word) for word in labels]})
    return config.model_copy(update={"finetune": settings})


def finetune(config: Config, layout: Layout, pretrained: Path, output: Path) -> None:
    """Train every configured run on labelled train faces; write a folder per run, and ``runs.json``.

    A run that `output` has already, of the same settings, weights, faces and labels, is not trained
    again. Faces of val choose the step whose weights are kept; those of test are not read. Without a
    single label there is nothing to learn: that is said, and ``runs.json`` is empty.

    Raises:
        UserError: weights, groups or a list of labels are missing or do not fit, or a loss is not finite.
    """
    faces = read_samples(layout, ("train",))
    output.mkdir(parents=True, exist_ok=True)
    done = []
    if not len(faces.labelled()):
        print("finetune: no face has a label, so there is no classifier to train")
    else:
        stage = _Stage(config, layout, faces, pretrained, output)
        for run in config.finetune.runs:
            for initial in config.finetune.initial:
                done.append(stage.run(run, initial))
    write_text(output / "runs.json", json.dumps(done, indent=2) + "\n")


class _Stage:
    """What all runs share: the faces, and what names their inputs."""

    def __init__(
        self, config: Config, layout: Layout, faces: Samples, pretrained: Path, output: Path
    ) -> None:
        self._config, self._layout, self._pretrained, self._output = config, layout, pretrained, output
        self._all, self._labelled = faces, faces.labelled()
        settings = config.finetune
        self._groups = read_groups(CELEBA_FILE if settings.groups is None else Path(settings.groups))
        self._shards = manifest_hash(layout)
        self._hashes: dict[Path, str] = {}

    def run(self, run: FinetuneRun, initial: str) -> dict[str, object]:
        """Train one run, or find it finished; its entry of ``runs.json``."""
        name, positions = run_name(initial, run), self._positions(run)
        folder = self._output / name
        facts = self._facts(run, initial, positions)
        entry = _finished(folder, facts)
        if entry is not None:
            print(f"finetune: {name} is done already; delete {folder} to train it again")
            return entry
        model = self._start(initial)
        subset = self._labelled.take(positions)
        unlabelled = self._all if initial == "semi" else None
        settings = self._config.finetune
        longer = settings.semi_supervised.longer if initial == "semi" else 1.0
        steps, frozen = round(longer * run.steps), round(longer * settings.frozen_steps)
        found = fit(self._config, model, Run(name, steps, frozen, initial, subset, unlabelled), self._val)
        folder.mkdir(exist_ok=True)
        (folder / "run.json").unlink(missing_ok=True)
        checkpoint.save(
            folder / "classifier.pt",
            {
                "model": model.state_dict(),
                "attributes": list(self._all.attribute_names),
                "groups": self._groups,
                "config": self._config.model_dump(mode="json"),
                "facts": facts_of(self._layout, self._config),
            },
        )
        entry = {
            "name": name,
            "initial": initial,
            "labels": run.labels,
            "faces": len(positions),
            "seed": self._config.finetune.seed,
            "steps": steps,
            **found,
        }
        write_text(folder / "run.json", json.dumps({"entry": entry, "facts": facts}, indent=2) + "\n")
        return entry

    @cached_property
    def _val(self) -> ValidationSamples:
        return ValidationSamples(self._config, self._layout)

    def _positions(self, run: FinetuneRun) -> NDArray[np.int64]:
        if isinstance(run.labels, str):
            return read_subset(Path(run.labels), self._labelled)
        return labelled_subset(self._labelled, run.labels, self._config.finetune.seed)

    def _facts(self, run: FinetuneRun, initial: str, positions: NDArray[np.int64]) -> dict[str, Any]:
        """Everything that the weights of a run depend on, but the code."""
        settings = self._config.finetune.model_dump(mode="json", exclude=NOT_COMPARED)
        if initial != "semi":
            del settings["semi_supervised"]
        file = self._weights(initial)
        keys = "\n".join(sorted(self._labelled.keys[position] for position in positions))
        return {
            "shards": self._shards,
            "labelled": hashlib.sha256(keys.encode()).hexdigest(),
            "steps": run.steps,
            "initial": initial,
            "weights": None if file is None else self._hash(file),
            "groups": self._groups,
            "network": self._config.network.model_dump(mode="json"),
            "finetune": settings,
        }

    def _weights(self, initial: str) -> Path | None:
        if initial in FROM_STAGE_1:
            return self._pretrained
        return Path(self._config.finetune.imagenet or "") if initial == "imagenet" else None

    def _hash(self, file: Path) -> str | None:
        if file not in self._hashes and file.is_file():
            self._hashes[file] = hashlib.sha256(file.read_bytes()).hexdigest()
        return self._hashes.get(file)

    def _start(self, initial: str) -> Classifier:
        set_seed(self._config.finetune.seed)
        model = Classifier(self._config.network, self._all.attribute_names, self._groups)
        file = self._weights(initial)
        if file is not None and initial in FROM_STAGE_1:
            load_network(model, self._config.network, read_exported(file))
        elif file is not None:
            load_imagenet(model.network, file)
        return model


def _finished(folder: Path, facts: dict[str, Any]) -> dict[str, object] | None:
    """The entry of a run that was trained to the end from the same `facts`."""
    try:
        found = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    same = found["facts"] == facts and (folder / "classifier.pt").is_file()
    return found["entry"] if same else None
