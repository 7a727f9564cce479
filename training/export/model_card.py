"""The model card of an exported classifier: Markdown with YAML front matter, as Hugging Face reads it."""

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from tabulate import tabulate

from common.alignment.detector import DETECT_SIDE
from common.members import JPEG_QUALITY
from training.evaluate.metrics import METRICS
from training.evaluate.results import LEFT_OUT_SCORES, read_json, read_runs, read_scores
from training.evaluate.scoring import MAJORITY
from training.evaluate.thresholds import DEFAULT, THRESHOLDS
from training.models.classifier import Classifier
from training.predict.predictor import Predictor

TEMPLATES: Final = Path(__file__).parent / "templates"


def read_results(evaluation: Path, checkpoint: Path, classifier: Classifier) -> dict[str, Any]:
    """How a classifier was trained and evaluated; a value is empty where nothing is known.

    Args:
        evaluation: the folder that an evaluation wrote; what it says of other classifiers is not used.
        checkpoint: the classifier's file, beside whose folder there may be ``runs.json``.

    Returns:
        ``run``, its name; ``training``, its entry of ``runs.json``; ``scores`` and ``majority``, of the
        classifier and the majority class, see `read_scores`; ``split``, of the faces that were evaluated.

    Raises:
        UserError: a file cannot be read.
    """
    name, finetuned = checkpoint.absolute().parent.name, checkpoint.absolute().parent.parent
    runs = read_runs(finetuned) if (finetuned / "runs.json").is_file() else []
    file, identity = evaluation / THRESHOLDS, classifier.identity
    judged = read_json(file) if file.is_file() else {}
    run = next((name for name, entry in judged.items() if entry["classifier"] == identity), None)
    if run is None and file.is_file():
        print(f"{file}: of other classifiers, so it is not used; evaluate this one again", file=sys.stderr)
    left_out = checkpoint.with_name(LEFT_OUT_SCORES)
    if run is None and left_out.is_file():
        content = read_json(left_out)
        if content.get("classifier") == identity:
            found = {"scores": {**content, "intervals": {}}, "majority": {}}
            training = content["training"]
            return {"run": training["name"], "training": training, **found, "split": "train"}
    scores = {} if run is None else read_scores(evaluation)
    training = next((entry for entry in runs if entry["name"] == name), {})
    found = {"scores": scores.get(run or "", {}), "majority": scores.get(MAJORITY, {})}
    return {"run": name, "training": training, **found, "split": "test"}


def labels_text(predictor: Predictor, parsing: Mapping[str, Any] | None) -> str:
    """``config.json``: attributes in the order of the probabilities, thresholds, and how to make a face.

    Of exported networks, `parsing` takes the place of the metadata's.
    """
    side, classifier = predictor.recipe.align.size, predictor.classifier
    metadata = {name: value for name, value in classifier.metadata.items() if name != "config"}
    content = {
        "attributes": [{"name": name, "threshold": cut} for name, cut in predictor.thresholds.items()],
        "classifier": classifier.identity,
        "kind": classifier.kind,
        "input": {"name": "faces", "type": "uint8", "shape": ["batch", side, side, 3], "channels": "RGB"},
        **metadata,
        **({"parsing": parsing} if parsing else {}),
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def model_card(
    predictor: Predictor,
    results: Mapping[str, Any],
    files: Sequence[Sequence[str]],
    compared_faces: int,
    license_name: str,
) -> str:
    """The text of the card; the same inputs give the same text, and what is not known is named as such.

    Args:
        results: see `read_results`.
        files: rows of the table of exported files, the first of them the headings.
        compared_faces: how many faces the exported files were compared on.
        license_name: licence of the weights.
    """
    how: dict[str, Any] = dict.fromkeys(("trim_blocks", "lstrip_blocks", "keep_trailing_newline"), True)
    environment = Environment(loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, **how)
    environment.filters.update(markdown=escape_markdown, table=_table)
    titles, scores = [metric.title for metric in METRICS.values()], results["scores"]
    means = {
        name: entry["means"] | {f"{metric}_interval": pair for metric, pair in entry["intervals"].items()}
        for name, entry in ((results["run"], scores), (MAJORITY, results["majority"]))
        if entry
    }
    groups = [
        (f"{group}: {title}", f"{gap[key]['faces']:,}" if "faces" in gap[key] else "", *_percents(gap[key]))
        for group, gap in scores.get("subgroups", {}).items()
        for key, title in (("yes", "yes"), ("no", "no"), ("difference", "yes minus no"))
    ]
    own, cuts = scores.get("attributes", {}), predictor.thresholds.items()
    by_attribute = [(name, f"{cut:.3f}", *_percents(own.get(name, {}))) for name, cut in cuts]
    return environment.get_template("model_card.md.j2").render(
        front_matter=_front_matter(predictor.classifier.metadata, results, license_name),
        classifier=predictor.classifier,
        align=predictor.recipe.align,
        detect_side=DETECT_SIDE,
        jpeg_quality=JPEG_QUALITY,
        tuned=set(predictor.thresholds.values()) != {DEFAULT},
        results=results,
        scores=[("", *titles), *((title, *_percents(entry)) for title, entry in means.items())],
        by_attribute=[("attribute", "threshold", *titles), *by_attribute],
        gaps=[("group", "faces", *titles), *groups],
        files=files,
        compared_faces=compared_faces,
        license=license_name,
    )


def escape_markdown(text: str) -> str:
    """Text from data, such as the name of a label, in one line of Markdown that shows it as it is."""
    special = r"[\\`*\[\]<>|&~]|_(?![^\W_])|(?<![^\W_])_"  # an underscore within a word is not
    return re.sub(special, r"\\\g<0>", " ".join(text.split()))


def _front_matter(metadata: Mapping[str, Any], results: Mapping[str, Any], license_name: str) -> str:
    """The YAML that the Hub reads, with the mean scores as a model index."""
    name, means = metadata["dataset"], results["scores"].get("means", {})
    about: dict[str, Any] = {"task_type": "image-classification", "task_name": "facial attributes"}
    about |= {"dataset_type": name, "dataset_name": name, "dataset_split": results["split"]}
    scores = [
        EvalResult(**about, metric_type=name, metric_value=value)
        for name in METRICS
        if (value := means.get(name)) is not None
    ]
    return ModelCardData(
        license=license_name,
        library_name="onnx",
        pipeline_tag="image-classification",
        tags=["face-attributes", "multi-label", "self-supervised"],
        metrics=[next(iter(METRICS))],
        model_name=results["run"],
        eval_results=scores or None,
    ).to_yaml()


def _table(rows: Iterable[Sequence[str]]) -> str:
    """Rows of text as a Markdown table without columns that are empty; the first row are the headings."""
    head, *body = [[escape_markdown(cell) for cell in row] for row in rows]
    known = [column for column in range(len(head)) if {row[column] for row in body} != {"-"}]
    head, *body = [[row[column] for column in known] for row in (head, *body)]
    return tabulate(body, head, tablefmt="github", disable_numparse=True)


def _percents(entry: Mapping[str, Any]) -> list[str]:
    """Every score in percent with its interval, as ``91.2 (90.1 to 92.3)``; ``-`` where it is not known."""
    texts = []
    for name in METRICS:
        value, interval = entry.get(name), entry.get(f"{name}_interval")
        text = "-" if value is None else f"{100 * value:.1f}"
        low, high = (f"{100 * end:.1f}" for end in interval or (0, 0))
        texts.append(f"{text} ({low} to {high})" if interval and value is not None else text)
    return texts
