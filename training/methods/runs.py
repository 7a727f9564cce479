"""Stage 2: the list of methods, a run for each of them and each amount of labels, and their records."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from common.config import Config, Finetune, FinetuneRun
from common.errors import UserError
from common.files import write_text
from common.freshness import code_hash, read_record, write_record
from common.layout import Layout
from training.data.label_subsets import labelled_subset, read_subset, share
from training.data.samples import Samples, manifest_hash, read_samples
from training.engine.checkpoint import Checkpoints
from training.engine.device import announce_training
from training.engine.distributed import joined
from training.methods.calibration import use_label_thresholds
from training.methods.method import Context, Method, Run
from training.methods.network import Scratch
from training.methods.pretrained import Pretrained
from training.methods.probe import LinearProbe
from training.methods.region_probe import RegionProbeMethod
from training.methods.student import Student
from training.models.classifier import FILE, save_classifier
from training.models.stored_features import require_members

RECORD: Final = "run.json"  # Name of the record of a finished run, beside its classifier


def run_name(method: str, labels: float | str) -> str:
    """The name of a run and of its folder: ``pretrained-5%``, or ``pretrained-LIST`` for LIST.txt."""
    return f"{method}-{Path(labels).stem if isinstance(labels, str) else f'{labels * 100:g}%'}"


def finetune(config: Config, layout: Layout, pretrained: Path, output: Path, resume: str = "auto") -> None:
    """Make a classifier by every configured run and method; write a folder per run, and ``runs.json``.

    A run whose record in `output` was made from the same (see `made_from`) is not repeated; one that was
    interrupted continues from its checkpoint, as `resume` says (see `Checkpoints.resume`). Under
    ``torchrun`` all processes share each batch. Samples of test are not read. Without a single label there
    is no classifier: a notice is printed and ``runs.json`` is empty.

    Raises:
        UserError: two runs have one name; weights, groups or a list of labels are missing or do not fit; a
            loss is not finite; the processes cannot share a batch evenly; or a checkpoint does not fit.
        SystemExit: a signal stopped the run; its state is saved.
    """
    methods = [find_method(name) for name in config.finetune.methods]
    names = Counter(run_name(method.name, run.labels) for run in config.finetune.runs for method in methods)
    if twice := [name for name, count in names.items() if count > 1]:
        raise UserError(
            f"two runs would write {output / twice[0]}; name no labels and no method twice, and rename one "
            "of two lists of the same name"
        )
    entries: list[dict[str, Any]] = []
    with joined() as ranks:
        context = Context(config, layout, ranks, resume)
        if not len(context.labelled):
            if ranks.first:
                print("finetune: no sample has a label, so there is no classifier to train")
        else:
            for method in methods:
                require_members(context.train, method.members(context.train.extents))
            if ranks.first:
                announce_training("finetune", config.trainer.precision, ranks.world)
            entries = [
                _finish(context, run, method, pretrained, output)
                for run in config.finetune.runs
                for method in methods
            ]
        if ranks.first:
            write_text(output / "runs.json", json.dumps(entries, indent=2) + "\n")


def made_from(
    context: Context, method: Method, run: FinetuneRun, labelled: Samples, pretrained: Path
) -> dict[str, Any]:
    """Everything that the classifier of a run depends on; `pretrained` is the result of stage 1."""
    settings = context.settings.model_dump(mode="json", include=set(method.settings))
    files = {name: getattr(context, name) for name in ("groups", "regions") if name in settings}
    weights = pretrained if method.pretrained and pretrained.is_file() else None
    keys = "\n".join(sorted(labelled.keys))
    return {
        "code": code_hash(type(method).__module__),
        "method": method.name,
        "processes": context.ranks.world,
        "shards": manifest_hash(context.layout),
        "labelled": hashlib.sha256(keys.encode()).hexdigest(),
        "steps": run.steps,
        "seed": context.settings.seed,
        "weights": hashlib.sha256(weights.read_bytes()).hexdigest() if weights else None,
        "network": method.configured(context.config).network.model_dump(mode="json"),
        "trainer": context.config.trainer.model_dump(include={"precision", "shuffle_shards"}),
        "finetune": {**settings, **files},
    }


def labelled_faces(context: Context, run: FinetuneRun) -> Samples:
    """The faces whose labels a run uses; for errors see `read_subset`."""
    return context.labelled.take(_positions(run.labels, context.labelled, context.settings.seed))


def _positions(labels: float | str, labelled: Samples, seed: int) -> NDArray[np.int64]:
    if isinstance(labels, str):
        return read_subset(Path(labels), labelled)
    return labelled_subset(labelled, labels, seed)


def _finish(
    context: Context, run: FinetuneRun, method: Method, pretrained: Path, output: Path
) -> dict[str, Any]:
    """Do one run unless its record is up to date; return its entry of ``runs.json``."""
    name, first = run_name(method.name, run.labels), context.ranks.first
    folder, labelled = output / name, labelled_faces(context, run)
    inputs = made_from(context, method, run, labelled, pretrained)
    record = None if context.resume == "never" else read_record(folder / RECORD, inputs)
    if record := context.ranks.broadcast(record if (folder / FILE).is_file() else None):
        if first:
            print(f"finetune: {name} is up to date; delete {folder} to train it again")
        return dict(record["entry"])
    checkpoints = Checkpoints(
        f"finetune {name}", folder / "checkpoints", context.config, inputs, context.ranks
    )
    if first:
        (folder / RECORD).unlink(missing_ok=True)
    weights = pretrained if method.pretrained else None
    classifier, result = method.fit(context, Run(name, labelled, run.steps, weights, checkpoints))
    if method.label_thresholds and context.settings.select == "labels":
        use_label_thresholds(classifier, labelled.attributes)
    context.latest[method.name] = tuple(labelled.keys), classifier
    fields = ("title", "sentence", "pretrained", "unlabelled")
    described = {field: getattr(method, field) for field in fields}
    described = {"method": method.name, **described, "labels": run.labels}
    entry = {"name": name, **described, "faces": len(labelled), "seed": context.settings.seed, **result}
    if first:
        config = method.configured(context.config).model_dump(mode="json")
        classifier.metadata = {**described, **context.provenance, "config": config}
        save_classifier(folder / FILE, classifier)
        write_record(folder / RECORD, {"entry": entry}, inputs)
    checkpoints.clear()
    return entry


def runs_for(labels: Sequence[str], settings: Finetune, layout: Layout) -> list[FinetuneRun]:
    """A run for each of `labels`, shares such as ``5%`` or paths of lists of keys of the shards.

    Each has the steps of the configured run whose labels are nearest in number; without any, these runs.

    Raises:
        UserError: an entry is neither a share nor a file, or a list does not fit the shards.
    """
    labelled = read_samples(layout, ("train",)).labelled()
    if not len(labelled):
        return settings.runs

    def count(entry: float | str) -> int:
        return len(_positions(entry, labelled, settings.seed))

    configured = [(count(run.labels), run.steps) for run in settings.runs]

    def run_for(text: str) -> FinetuneRun:
        entry = text if Path(text).is_file() else share(text)
        faces = count(entry)
        _, steps = min(configured, key=lambda other: abs(math.log(other[0] / faces)))
        return FinetuneRun(labels=entry, steps=steps)

    return [run_for(text) for text in labels]


# By name, in the order of tables and plots.
METHODS: Final[dict[str, Method]] = {
    method.name: method for method in (Scratch(), LinearProbe(), RegionProbeMethod(), Pretrained(), Student())
}


def find_method(name: str) -> Method:
    """The method with a name; a UserError lists those that there are."""
    if name not in METHODS:
        raise UserError(f"there is no method {name}; finetune.methods may name {', '.join(METHODS)}")
    return METHODS[name]
