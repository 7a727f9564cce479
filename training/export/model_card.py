"""The model card of an exported classifier: Markdown with YAML front matter, as Hugging Face reads it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from tabulate import tabulate

from common.errors import UserError
from training.evaluate.metrics import METRICS
from training.evaluate.scoring import MAJORITY
from training.predict.predictor import Predictor

TEMPLATES: Final = Path(__file__).parent / "templates"


def read_results(evaluation: Path, checkpoint: Path) -> dict[str, Any]:
    """How a classifier was trained and evaluated; a value is empty where nothing is known.

    Returns:
        ``run``, its name; ``means``, its entry of ``metrics.json`` with ``METRIC_interval`` from
        ``intervals.json``; ``majority``, the same of the majority class; ``attributes``, its entry of
        ``attributes.json``; ``gaps``, by subgroup, from ``intervals.json``; ``training``, its entry of
        ``runs.json`` beside the classifier's folder.

    Raises:
        UserError: a file is not valid JSON.
    """
    folder = checkpoint.absolute().parent
    run, runs = folder.name, _read_json(folder.parent / "runs.json") or []
    means, attributes, intervals = (
        _read_json(evaluation / f"{name}.json") for name in ("metrics", "attributes", "intervals")
    )

    def means_of(name: str) -> dict[str, Any]:
        bounds = intervals.get(name, {}).get("means", {})
        return means.get(name, {}) | {f"{metric}_interval": pair for metric, pair in bounds.items()}

    return {
        "run": run,
        "means": means_of(run),
        "majority": means_of(MAJORITY),
        "attributes": attributes.get(run, {}),
        "gaps": intervals.get(run, {}).get("gaps", {}),
        "training": next((entry for entry in runs if entry.get("name") == run), {}),
    }


def _read_json(file: Path) -> Any:
    if not file.is_file():
        return {}
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file}: not valid JSON ({error}); evaluate again") from error


def model_card(
    predictor: Predictor,
    results: Mapping[str, Any],
    files: Sequence[Sequence[str]],
    compared_faces: int,
    license_name: str,
) -> str:
    """The text of the card; the same inputs give the same text, and what is not known is named as such.

    Args:
        predictor: the classifier.
        results: see `read_results`.
        files: rows of the table of exported files, the first of them the headings.
        compared_faces: how many faces the exported files were compared on.
        license_name: licence of the weights.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("model_card.md.j2").render(
        front_matter=_front_matter(predictor.metadata, results, license_name),
        metadata=predictor.metadata,
        align=predictor.recipe.align,
        attributes=predictor.attributes,
        thresholds_from=predictor.thresholds_from,
        network=predictor.model.classifier.config,
        training=results["training"],
        scores=_means_table(results) if results["means"] else "",
        by_attribute=_attribute_table(predictor, results),
        gaps=_gap_table(results["gaps"]) if results["gaps"] else "",
        files=_table(files),
        compared_faces=compared_faces,
        license=license_name,
    )


def _front_matter(metadata: Mapping[str, Any], results: Mapping[str, Any], license_name: str) -> str:
    """The YAML that the Hub reads, with the mean scores as a model index."""
    dataset = metadata["dataset"]
    scores = [
        EvalResult(
            task_type="image-classification",
            task_name="facial attributes",
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split="test",
            metric_type=name,
            metric_value=results["means"][name],
        )
        for name in METRICS
        if results["means"].get(name) is not None
    ]
    data = ModelCardData(
        license=license_name,
        library_name="onnx",
        pipeline_tag="image-classification",
        tags=["face-attributes", "multi-label", "self-supervised"],
        metrics=[next(iter(METRICS))],
        model_name=results["run"],
        eval_results=scores or None,
    )
    return data.to_yaml()


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text as a Markdown table; the first are the headings."""
    head, *body = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return tabulate(body, head, tablefmt="github", disable_numparse=True)


def _means_table(results: Mapping[str, Any]) -> str:
    names = [name for name in METRICS if results["means"].get(name) is not None]
    entries = {results["run"]: results["means"], MAJORITY: results["majority"]}
    rows = [[title, *(_percent(entry, name) for name in names)] for title, entry in entries.items() if entry]
    return _table([["", *(METRICS[name].title for name in names)], *rows])


def _attribute_table(predictor: Predictor, results: Mapping[str, Any]) -> str:
    rows = [["attribute", "threshold", *(metric.title for metric in METRICS.values())]]
    for name in predictor.attributes:
        scores = [_percent(results["attributes"].get(name, {}), metric) for metric in METRICS]
        rows.append([name, f"{predictor.thresholds[name]:.3f}", *scores])
    return _table(rows)


def _gap_table(gaps: Mapping[str, Any]) -> str:
    """Scores of the faces with and without each group's attribute, and their difference."""
    names = [
        name for name in METRICS if any(gap["difference"].get(name) is not None for gap in gaps.values())
    ]
    rows = [["group", "faces", *(METRICS[name].title for name in names)]]
    for group, gap in gaps.items():
        for key, title in (("yes", "yes"), ("no", "no"), ("difference", "yes minus no")):
            faces = f"{gap[key]['faces']:,}" if "faces" in gap[key] else ""
            rows.append([f"{group}: {title}", faces, *(_percent(gap[key], name) for name in names)])
    return _table(rows)


def _percent(entry: Mapping[str, Any], metric: str) -> str:
    """A score in percent with its interval, such as ``91.2 (90.1 to 92.3)``; ``-`` if it is not known."""
    value, interval = entry.get(metric), entry.get(f"{metric}_interval")
    if value is None:
        return "-"
    text = f"{100 * value:.1f}"
    return f"{text} ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})" if interval else text
