"""From photos and a table of labels to a classifier, its scores, and the page to label more on."""

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from shlex import quote
from typing import Final

import torch

from common import manifest
from common.alignment.recipe import METADATA_KEY, Recipe
from common.config import Config, load
from common.errors import UserError
from common.files import write_text
from common.layout import Layout
from common.page.formats import count as counted
from common.page.formats import percent
from common.storage import is_file
from training.data.provenance import parsing
from training.data.samples import Samples, read_samples
from training.evaluate.metrics import METRICS
from training.evaluate.results import LEFT_OUT_SCORES, read_runs
from training.evaluate.scoring import Evaluator, RunScores, estimates
from training.evaluate.thresholds import DEFAULT
from training.label.audit import FEWEST, left_out_logits
from training.label.page import PAGE, write_suggestions
from training.methods.method import regions_of
from training.methods.region_probe import read_standardised
from training.methods.runs import finetune, run_name, runs_for
from training.models.classifier import FILE, Classifier, load_classifier, save_classifier

METHOD: Final = "region_probe"
COUNT: Final = 60  # Faces on the labelling page
# All labels are learnt from, unless finished shards have splits; the scores are of faces left out.
NO_SPLITS: Final[tuple[str, ...]] = ("ingest.val_fraction=0.0", "ingest.test_fraction=0.0")


def fit_photos(
    photos: str, labels: Path | None, output: Path, files: Sequence[Path], settings: Sequence[str]
) -> Classifier | None:
    """Parse what is not parsed, fit the region probe, and write its file, its scores, and a labelling page.

    Args:
        photos: a folder of photos, a table or an address as `pipeline.parse` takes them, or finished shards.
        labels: a table of labels to join to the photos.
        output: folder of shards and results; with finished shards, of results alone.
        files, settings: see `common.config.load`.

    Returns:
        The classifier; None if no photo has a label, and there is only the page.

    Raises:
        UserError: an input cannot be used, only one photo has a label, or finished shards were made with
            other settings.
    """
    config = load(files, settings)
    if labels is not None and is_file((finished := Layout.at(photos)).samples):
        _require_same(config, finished)
    layout = _parsed(photos, labels, output, files, settings)
    faces = read_samples(layout, ("train", "unlabelled"), config.stream.folder)
    labelled = read_samples(layout, ("train",)).labelled()
    if not len(labelled):
        write_suggestions(config, layout, output / PAGE, COUNT)
        print(f"fit: no photo has a label; label some on {output / PAGE}, and fit again with the labels")
        return None
    classifier = _fit(config, layout, labelled, faces, output)
    write_suggestions(config, layout, output / PAGE, COUNT)
    print(f"fit: label more on {output / PAGE}")
    error = "" if classifier.left_out is None else "--error 5% "
    print(f"fit: python -m training.predict --checkpoint {output / FILE} {error}NEW_PHOTOS")
    return classifier


def _parsed(
    photos: str, labels: Path | None, output: Path, files: Sequence[Path], settings: Sequence[str]
) -> Layout:
    """The finished shards of the photos; the pipeline leaves those that are up to date."""
    shards, splits, finished = output, NO_SPLITS, Layout.at(photos)
    if is_file(finished.samples):
        if labels is None:
            return finished
        if {"val", "test"} & set(manifest.read(finished.samples, ["split"]).table["split"].to_pylist()):
            splits = ()
        shards, photos = Path(photos), manifest.read(finished.source, ["source"]).metadata["root"]
    command = [sys.executable, "-m", "pipeline.parse", "--input", photos, "--output", str(shards)]
    if labels is not None:
        command += ["--labels", str(labels)]
    for file in files:
        command += ["--config", str(file)]
    for setting in (*splits, *settings):
        command += ["--set", setting]
    done = subprocess.run(command, check=False)
    if done.returncode:  # the pipeline has said why
        raise SystemExit(done.returncode)
    return Layout.at(str(shards))


def _require_same(config: Config, layout: Layout) -> None:
    """Refuse settings by which the photos of finished shards would all be parsed again."""
    text = manifest.read(layout.samples, []).metadata[METADATA_KEY]
    made, parsed = Recipe.read(text, str(layout.samples)).align.model_dump(), parsing(layout, config)
    made = {f"align.{name}": value for name, value in made.items()}
    made |= {"parse.size": parsed["size"], "parse.features_from": _listed(parsed["networks"])}
    asked = {f"align.{name}": value for name, value in config.align.model_dump().items()}
    networks = _listed(Path(network).stem for network in config.parse.features_from)
    asked |= {"parse.size": config.parse.size, "parse.features_from": networks}
    if asked["align.mode"] == "auto":
        asked["align.mode"] = made["align.mode"]
    if different := [f"--set {quote(f'{name}={made[name]}')}" for name in made if made[name] != asked[name]]:
        raise UserError(
            f"{layout.shards}: made with other settings than these, so that all its photos would be parsed "
            f"again; add {' '.join(different)}"
        )


def _listed(names: Iterable[str]) -> str:
    return f"[{','.join(sorted(names))}]"


def _fit(config: Config, layout: Layout, labelled: Samples, faces: Samples, output: Path) -> Classifier:
    """The classifier of all labels with predictions of faces that were left out, unless it is up to date."""
    runs = runs_for(["100%"], config.finetune, layout)
    chosen = config.finetune.model_copy(update={"methods": [METHOD], "runs": runs})
    config = config.model_copy(update={"finetune": chosen})
    finetune(config, layout, output / "pretrain", output / "finetune")
    classifier = load_classifier(output / "finetune" / run_name(METHOD, 1.0) / FILE)
    if (output / FILE).is_file():
        earlier = load_classifier(output / FILE)
        if earlier.identity == classifier.identity and earlier.left_out is not None:
            print(f"fit: {output / FILE} and its scores are up to date")
            return earlier
    known = ((labelled.attributes == value).any(axis=0) for value in (0, 1))
    if alike := [name for name, *both in zip(labelled.attribute_names, *known, strict=True) if not all(both)]:
        print(f"fit: nothing is learnt of {', '.join(alike)}; label faces with and without")
    if len(labelled) < FEWEST:
        print(
            f"fit: {counted(len(labelled), 'face')} with labels, too few for scores; label {FEWEST} or more"
        )
        (output / LEFT_OUT_SCORES).unlink(missing_ok=True)
        save_classifier(output / FILE, classifier)
        return classifier
    features, labels = read_standardised(labelled, faces, config.stream), labelled.attributes
    seen, logits = left_out_logits(
        features, labels, labelled.attribute_names, labelled.identities, regions_of(config.finetune), 2000
    )
    cuts = [(classifier.thresholds or {}).get(name, DEFAULT) for name in labelled.attribute_names]
    probabilities = torch.from_numpy(logits).sigmoid().numpy()
    settings = config.evaluate.model_copy(update={"subgroups": []})
    scores = Evaluator(labelled.take(seen), settings, labelled).score(probabilities, cuts)
    _write_scores(scores, classifier, output / LEFT_OUT_SCORES)
    known_labels = torch.from_numpy(labels[seen])
    classifier.left_out = {"logits": torch.from_numpy(logits).float(), "labels": known_labels}
    save_classifier(output / FILE, classifier)
    return classifier


def _write_scores(scores: RunScores, classifier: Classifier, file: Path) -> None:
    """Write and print the scores of faces that were left out, with intervals over identities.

    The file has the ``means`` over attributes and, by name, ``attributes``, see `estimates`; the identity of
    the ``classifier``, and its ``training``, the entry of ``runs.json``.
    """
    means = estimates(scores.means)
    (training,) = read_runs(file.parent / "finetune")
    content = {"classifier": classifier.identity, "training": training}
    content |= {"means": means, "attributes": scores.attributes}
    write_text(file, json.dumps(content, indent=2) + "\n")
    for name, metric in METRICS.items():
        if metric.headline and means[name] is not None:
            ends = means[f"{name}_interval"] or (means[name], means[name])
            interval = " to ".join(percent(end) for end in ends)
            print(
                f"fit: {metric.title} {percent(means[name])} % (95 % interval {interval}) of faces left out"
            )
