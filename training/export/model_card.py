"""The model card of an exported classifier: Markdown with YAML front matter, as Hugging Face reads it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import yaml

from common.errors import UserError
from training.evaluate.metrics import METRICS
from training.predict.predictor import Predictor

INTENDED: Final = """\
Research on learning face representations from few labels: comparing methods, sorting photos that the user has
the right to process, finding where a classifier errs."""

NOT_INTENDED: Final = """\
Identifying people; deciding on work, credit, access, policing or health; inferring gender identity,
ethnicity, character or feelings of a person. The attributes are what annotators saw in a picture, some of
them matters of taste (such as "Attractive"). Look at the gaps between groups before any use."""


@dataclass(frozen=True)
class Evidence:
    """What is known of how good a classifier is.

    Attributes:
        run: its name in the evaluation.
        means: its entry of ``metrics.json``, empty if there is none.
        majority: the majority class's entry, empty if there is none.
        attributes: its entry of ``attributes.json``, empty if there is none.
        gaps: by group, from ``intervals.json``, empty if there are none.
        training: its entry of ``runs.json``, empty if there is none.
    """

    run: str
    means: dict[str, Any]
    majority: dict[str, Any]
    attributes: dict[str, Any]
    gaps: dict[str, Any]
    training: dict[str, Any]

    @classmethod
    def read(cls, evaluation: Path, checkpoint: Path) -> Self:
        """What the files in an evaluation's folder, and ``runs.json`` beside the classifier's folder, say."""
        place = checkpoint.absolute().parent
        means = _read(evaluation / "metrics.json")
        details = _read(evaluation / "attributes.json")
        runs = _read(place.parent / "runs.json") or []
        training: dict[str, Any] = next((entry for entry in runs if entry.get("name") == place.name), {})
        run = place.name
        uncertain = _read(evaluation / "intervals.json")

        def means_of(name: str) -> dict[str, Any]:
            edges = uncertain.get(name, {}).get("means", {})
            return means.get(name, {}) | {f"{score}_interval": pair for score, pair in edges.items()}

        return cls(
            run=run,
            means=means_of(run),
            majority=means_of("majority class"),
            attributes=details.get(run, {}),
            gaps=uncertain.get(run, {}).get("gaps", {}),
            training=training,
        )


def _read(file: Path) -> Any:
    if not file.is_file():
        return {}
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file}: no JSON ({error}); evaluate again") from error


def card(
    predictor: Predictor,
    state: dict[str, Any],
    evidence: Evidence,
    forms: Sequence[Sequence[str]],
    faces: int,
    license_name: str,
) -> str:
    """The text of the card; what is not known is said so.

    Args:
        predictor: the classifier.
        state: content of its file.
        evidence: its scores.
        forms: rows of the table of exported files, titles first.
        faces: how many the exported files were compared on.
        license_name: of the weights.
    """
    facts = state["facts"]
    parts = [
        "---\n" + yaml.safe_dump(_front_matter(facts, evidence, license_name), sort_keys=False) + "---",
        f"# Facial attributes, trained on {facts['dataset']}",
        "One probability per attribute of an aligned face.",
        "## Use\n\n" + _usage(predictor),
        "## How faces must be aligned\n\n" + _alignment(predictor),
        "## Data and labels\n\n" + _data(facts, evidence, state),
        "## Scores on the test split\n\n" + _scores(evidence),
        "## Attributes\n\n" + _attributes(predictor, evidence),
        "## Gaps between groups\n\n" + _gaps(evidence),
        f"## Files\n\nCompared on {faces} aligned faces; time on the CPU of the machine that exported.\n\n"
        + markdown_table(forms),
        "## Intended use\n\n" + INTENDED,
        "## Not intended\n\n" + NOT_INTENDED,
        "## Licence\n\n" + _licence(license_name),
        f"Made by: {facts['code']}.",
    ]
    return "\n\n".join(parts) + "\n"


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text as a Markdown table; the first is the titles."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def _front_matter(facts: dict[str, Any], evidence: Evidence, license_name: str) -> dict[str, Any]:
    front: dict[str, Any] = {
        "license": license_name,
        "library_name": "onnx",
        "pipeline_tag": "image-classification",
        "tags": ["face-attributes", "multi-label", "self-supervised"],
        "metrics": list(METRICS)[:1],
    }
    values = [
        {"type": name, "value": evidence.means[name]}
        for name in METRICS
        if evidence.means.get(name) is not None
    ]
    if values:
        result = {
            "task": {"type": "image-classification", "name": "facial attributes"},
            "dataset": {"type": facts["dataset"], "name": facts["dataset"], "split": "test"},
            "metrics": values,
        }
        front["model-index"] = [{"name": evidence.run, "results": [result]}]
    return front


def _usage(predictor: Predictor) -> str:
    side = predictor.recipe.align.size
    return f"""\
```python
import json
import numpy as np
import onnxruntime
from PIL import Image

labels = json.load(open("labels.json", encoding="utf-8"))["attributes"]
faces = np.asarray(Image.open("aligned.png").convert("RGB"))[None]  # uint8 (1, {side}, {side}, 3)
session = onnxruntime.InferenceSession("classifier.onnx")
(probabilities,) = session.run(None, {{"faces": faces}})
present = [label["name"] for label, p in zip(labels, probabilities[0]) if p >= label["threshold"]]
```

Resizing and normalisation are inside the graph. `python -m training.predict --checkpoint classifier.pt PHOTO`
of the project finds and aligns the faces of ordinary photos. Thresholds: {_thresholds(predictor)}."""


def _thresholds(predictor: Predictor) -> str:
    return (
        "best balanced accuracy on val" if predictor.thresholds_from == "val" else "0.5 throughout, not tuned"
    )


def _alignment(predictor: Predictor) -> str:
    align = predictor.recipe.align
    if align.mode == "none":
        how = (
            "The central square of pictures that were aligned already by their data set, "
            f"resized to {align.size} x {align.size}. Other pictures must be aligned as there."
        )
    else:
        how = (
            f"Faces are found by facexlib's `{align.detector}` (score {align.threshold:g} or more, longer "
            f"side at most {align.detect_side} pixels) and warped by the similarity transform that best maps "
            f"their five landmarks to facexlib's template, to {align.size} x {align.size}, gray outside."
        )
    return f"{how} They were stored as JPEG of quality {align.jpeg_quality}. All values are in `labels.json`."


def _data(facts: dict[str, Any], evidence: Evidence, state: dict[str, Any]) -> str:
    counts = ", ".join(f"{count:,} {split}" for split, count in facts["faces"].items())
    lines = [f"Data set `{facts['dataset']}`: {counts} faces. {len(state['attributes'])} attributes."]
    training = evidence.training
    if training:
        share = training.get("labels")
        of = f" ({share:.4g} of the labelled train faces)" if isinstance(share, float) else f" ({share})"
        lines.append(
            f"Labels of {training['faces']:,} faces were used{of}; initialisation: {training['initial']}; "
            f"{training['steps']:,} optimisation steps."
        )
    else:
        lines.append("How many labels were used is not known here (no runs.json beside the classifier).")
    network = state["config"]["network"]
    lines.append(
        f"Network: `{network['name']}`, width {network['width']}, input {network['input_size']} pixels."
    )
    return " ".join(lines)


def _percent(entry: dict[str, Any], score: str) -> str:
    value, interval = entry.get(score), entry.get(f"{score}_interval")
    if value is None:
        return "-"
    text = f"{100 * value:.1f}"
    return f"{text} ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})" if interval else text


def _scores(evidence: Evidence) -> str:
    if not evidence.means:
        return "Not evaluated: no metrics.json with this run was found."
    names = [name for name in METRICS if evidence.means.get(name) is not None]
    rows = [["", *(METRICS[name].title for name in names)]]
    for title, entry in ((evidence.run, evidence.means), ("majority class", evidence.majority)):
        if entry:
            rows.append([title, *(_percent(entry, name) for name in names)])
    return (
        "In percent, means over the attributes; in brackets 95 % intervals where known.\n\n"
        + markdown_table(rows)
    )


def _attributes(predictor: Predictor, evidence: Evidence) -> str:
    rows = [["attribute", "threshold", *(metric.title for metric in METRICS.values())]]
    for name in predictor.attributes:
        entry = evidence.attributes.get(name, {})
        rows.append(
            [name, f"{predictor.thresholds[name]:.3f}", *(_percent(entry, score) for score in METRICS)]
        )
    return markdown_table(rows)


def _gaps(evidence: Evidence) -> str:
    """A table per score of all groups; each difference is yes minus no."""
    if not evidence.gaps:
        return "Not measured."
    names = [
        name
        for name in METRICS
        if any(gap["difference"].get(name) is not None for gap in evidence.gaps.values())
    ]
    rows = [["group", "faces", *(METRICS[name].title for name in names)]]
    for group, gap in evidence.gaps.items():
        for answer in ("yes", "no", "difference"):
            entry = gap[answer]
            faces = f"{entry['faces']:,}" if "faces" in entry else ""
            title = f"{group}: {answer}" if answer != "difference" else f"{group}: yes minus no"
            rows.append([title, faces, *(_percent(entry, name) for name in names)])
    said = "Means over the other attributes, in percent (points for differences), with 95 % intervals."
    return f"{said}\n\n{markdown_table(rows)}"


def _licence(name: str) -> str:
    text = (
        "The code is under Apache-2.0. Weights that were learnt from a data set may be bound by its terms: "
        "CelebA, for one, allows non-commercial research only. Read its terms before sharing."
    )
    return text if name == "other" else f"Weights: {name}. {text}"
