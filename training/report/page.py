"""The result page: gathers what the stages wrote and has ``templates/report.html.j2`` lay it out."""

import csv
import json
import math
import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml
from markupsafe import Markup
from matplotlib.axes import Axes

from common import manifest
from common.config import PARAMS, Config, load
from common.files import write_text
from common.freshness import git_commit
from common.layout import DEFAULT_SHARDS, SPLITS, Layout
from common.page.figures import SERIES, SMALL, SOFT, colour, figure
from common.page.formats import NARROW, capitalized, count, duration, number, percent, signed, unit, words
from common.page.render import render
from training.data.samples import manifest_hash, read_samples
from training.evaluate.metrics import METRICS, PRIMARY
from training.evaluate.results import read_json
from training.models.classifier import load_classifier
from training.models.pretrained import FILE as PRETRAINED
from training.models.pretrained import read_pretrained
from training.report import scores
from training.report.diagnostics import find_mistakes, read_maps, reliability_figure, sure_rows
from training.report.scores import Evaluation, Run, read_evaluation

Curve = tuple[str, Markup, str]  # Title of a logged value, its figure over the steps, its last running mean

# Packages on which the numbers may depend.
PACKAGES: Final = (
    *("torch", "torchvision", "numpy", "opencv-python", "facexlib", "webdataset", "pyarrow", "dask"),
    *("scikit-learn", "torch-ema", "dvc", "dvclive", "pydantic"),
)


def report(config: Config, layout: Layout, output: Path, file: Path) -> None:
    """Write the result page: one HTML file that loads nothing; the same results give the same bytes.

    Configuration values that are stored beside trained weights take precedence over `config`, so the page
    describes what was done. `output` has ``finetune/``, ``evaluate/`` and, where they were made,
    ``pretrain/`` and ``explain/``.

    Raises:
        UserError: a result or a manifest is missing, or a shard is broken.
    """
    splits = {split: samples for split in SPLITS if len(samples := read_samples(layout, (split,)))}
    labelled = {split: len(samples.labelled()) for split, samples in splits.items()}
    faces = sum(map(len, splits.values()))
    evaluation = read_evaluation(output, labelled.get("test", 0))
    pretraining = read_pretraining(output / "pretrain")
    pretrained_on = pretraining["samples"] if pretraining else None
    files = [file for file in (layout.samples, layout.source) if file.is_file()]
    recorded = {key: value for file in files for key, value in manifest.read(file, []).metadata.items()}
    used, data = _used_config(config, output, evaluation), config.data
    name, root = recorded.get("dataset", data.name), recorded.get("root", str(data.input))
    used["data"].update(name=name, input=root)
    versions = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions.append(f"{package} {metadata.version(package)}")
    values = {
        "title": f"Facial attributes from few labels: {name}",
        "headline": _without_runs(faces, sum(labelled.values()), pretrained_on),
        "evaluation": evaluation,
        "dataset": name,
        "faces": faces,
        "splits": [
            [split, *map(number, (len(each), labelled[split], people or None, len(set(each.shards))))]
            for split, each in splits.items()
            for people in [len(set(each.identities) - {None})]
        ],
        "pretraining": pretraining,
        "batch_size": used["pretrain"]["batch_size"],
        "costs": cost_rows(layout, pretraining, evaluation.runs if evaluation else []),
        "commands": _commands(config, layout, output, root),
        "config": yaml.safe_dump(used, sort_keys=False, allow_unicode=True, width=100),
        "shards_sha256": manifest_hash(layout),
        "versions": ", ".join(versions),
        "commit": git_commit(PARAMS.parent),
    }
    if evaluation is not None:
        bars, undefined = scores.attribute_bars(evaluation)
        values |= {
            "headline": _headline(evaluation),
            "lede": _pretraining_gain(evaluation, pretrained_on),
            "metrics": list(METRICS.values()),
            "headline_metrics": [metric for metric in METRICS.values() if metric.headline],
            "main": METRICS[PRIMARY],
            "is_best": scores.is_best,
            "labels_of": scores.labels_of,
            "legend": lambda runs: [(f"series-{run.colour % len(SERIES)}", run.title) for run in runs],
            "label_figures": scores.label_figures(evaluation),
            "attribute_bars": bars,
            "undefined": undefined,
            "mistakes": find_mistakes(output, splits["test"], evaluation),
            "sure": sure_rows(output, splits["test"], evaluation),
            "maps": read_maps(output / "explain"),
            "reliability_figure": reliability_figure,
        }
    write_text(file, render(Path(__file__).with_name("templates"), "report.html.j2", **values))
    print(f"report: {file}")


def _used_config(config: Config, output: Path, evaluation: Evaluation | None) -> dict[str, Any]:
    """The configuration, with the sections that were stored beside the weights as they were then."""
    values, then = config.model_dump(mode="json"), dict[str, Any]()
    if (pretrained := output / "pretrain" / PRETRAINED).is_file():
        then["pretrain"] = read_pretrained(pretrained)["config"]
    if evaluation and evaluation.runs[0].file.is_file():
        then["finetune"] = load_classifier(evaluation.runs[0].file).metadata["config"]
    for stage, its in then.items():
        values |= {name: its[name] for name in ("network", "trainer", stage) if name in its}
    return values


def _commands(config: Config, layout: Layout, output: Path, root: str) -> list[str]:
    """The shell lines that make the results again; `root` is the folder of photos."""
    if layout.shards == DEFAULT_SHARDS and output == Path("runs") and config == load():
        return ["dvc repro report"]
    shards, results = shlex.quote(str(layout.shards)), shlex.quote(str(output))
    return [
        f"python -m pipeline.parse --config config.yaml --input {shlex.quote(root)} --output {shards}",
        f"python -m training.run --config config.yaml --shards {shards} --output {results}",
    ]


def _headline(evaluation: Evaluation) -> str:
    best = evaluation.best_runs[0]
    lead, value = f"With {count(best.faces, 'labelled face')}, ", best.means[PRIMARY]
    if value is None:
        return lead + "nothing can be ranked: in the test split each attribute has only one value"
    interval = ""
    if ends := best.intervals.get(PRIMARY):
        interval = f" (95{NARROW}% interval {unit(ends[0])} to {unit(ends[1])})"
    return f"{lead}the best classifier is “{best.title}”: mean average precision {unit(value)}{interval}"


def _without_runs(faces: int, labelled: int, pretrained_on: int | None) -> str:
    """The headline when no classifier was trained, so that none of the labels is in the train split."""
    done = f"the network is pre-trained on {count(pretrained_on, 'face')}" if pretrained_on else ""
    cause = f"no classifier was trained, because no {'train face' if labelled else 'face'} has a label"
    return f"{count(faces, 'face')} in shards, and {done or 'there was no pre-training'}; {cause}"


def _pretraining_gain(evaluation: Evaluation, pretrained_on: int | None) -> str:
    """What the weights of stage 1 gain over the reference with the fewest labels; empty if nothing tells."""
    first, *others = evaluation.budgets[0]
    run = next((run for run in others if run.entry.get("pretrained")), None)
    if run is None or (before := first.means[PRIMARY]) is None or (after := run.means[PRIMARY]) is None:
        return ""
    lead = "Pre-training" + (f" on {count(pretrained_on, 'face')} without labels" if pretrained_on else "")
    faces = count(evaluation.test_faces, "test face")
    change = f"mean average precision from {unit(before)} ({first.title}) to {unit(after)} ({run.title})"
    low, high = run.gains.get(PRIMARY, {}).get("interval") or (after - before, after - before)
    if low <= 0 <= high:
        return f"{lead} moves {change}, a difference too small for {faces} to settle."
    return (
        f"{lead} {'raises' if after > before else 'lowers'} {change}. When the people of the {faces} are "
        f"resampled, 95{NARROW}% of the gains lie between {signed(low)} and {signed(high)} points. Each "
        "network was trained once; the variance between trainings adds to that."
    )


def read_pretraining(folder: Path) -> dict[str, Any] | None:
    """The content of ``metrics.json`` and two more entries; None if there was no pre-training.

    ``curves``: by title of a task, its `Curve`s, losses first; those of no task lead.
    ``metrics``: rows of metric, value on train, value on val, and chance level, in percent.
    """
    if not (folder / "metrics.json").is_file():
        return None
    results: dict[str, Any] = read_json(folder / "metrics.json", "pretrain")
    metrics, rows, titles = {}, [], {}
    for task in results["tasks"]:
        title, short = str(task["title"]), str(task["abbreviation"])
        titles[task["name"]] = title if short in title.lower() else f"{title} ({short})"
        for metric in task["metrics"]:
            metrics[key := f"{task['name']}/{metric['name']}"] = metric
            values = (*(results.get(split, {}).get(key) for split in ("train", "val")), metric["chance"])
            rows.append((f"{short}: {metric['title']}", *map(percent, values)))
    curves: dict[str, list[Curve]] = {title: [] for title in ("All tasks", *titles.values())}
    logged = folder / "dvclive" / "plots" / "metrics" / "pretrain"
    files = {str(file.relative_to(logged).with_suffix("")): file for file in sorted(logged.rglob("*.tsv"))}
    for key in sorted(files, key=lambda key: list(metrics).index(key) if key in metrics else -1):
        task, _, name = key.partition("/")
        title = metrics[key]["title"] if key in metrics else words(name if task in titles else key)
        if points := _points(files[key]):
            curve = _curve(title.replace("/", " "), points, metrics.get(key))
            curves[titles.get(task, "All tasks")].append(curve)
    return {**results, "metrics": rows, "curves": {title: each for title, each in curves.items() if each}}


def _points(file: Path) -> list[tuple[float, float]]:
    """(step, value) of a logged curve; broken lines and infinite values are left out."""
    with file.open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.reader(stream, delimiter="\t") if len(row) == 2][1:]
    return [(float(step), float(value)) for step, value in rows if math.isfinite(float(value))]


def _curve(title: str, points: Sequence[tuple[float, float]], metric: Mapping[str, Any] | None) -> Curve:
    """A curve with its running mean; a metric is a share and has a line at its chance level."""
    title, scale = capitalized(title), 1.0 if metric is None else 100.0
    chance = metric["chance"] if metric else None
    steps, values = np.array(points).T
    # The centred running mean, over fewer values at both ends.
    kernel = np.ones(min(2 * (len(values) // 30) + 1, len(values)))
    mean = np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")

    def draw(axes: Axes) -> None:
        axes.plot(steps, scale * values, color=SOFT, linewidth=0.5, alpha=0.6)
        axes.plot(steps, scale * mean, color=colour(1))
        if chance is not None:
            axes.axhline(scale * chance, color=SOFT, linestyle="--", linewidth=0.8)
        axes.set_xticks([steps[0], steps[-1]], [f"{steps[0]:,.0f}", f"{steps[-1]:,.0f}"])
        axes.locator_params(axis="y", nbins=4)
        if metric is not None:
            axes.yaxis.set_major_formatter("{x:g} %")

    last = f"{mean[-1]:.3f}" if metric is None else unit(float(mean[-1]))
    return title, figure(draw, f"{title} over {steps[-1]:,.0f} steps", SMALL), last


def cost_rows(layout: Layout, pretraining: dict[str, Any] | None, runs: Sequence[Run]) -> list[list[str]]:
    """Rows of stage, time, cores, core-hours, and their sum; a stage without a record is left out.

    Args:
        layout: the shards, whose ``stages.json`` has the records of the pipeline.
        pretraining: see `read_pretraining`.
    """
    path, cores = layout.manifests / "stages.json", len(os.sched_getaffinity(0))
    records = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    costs = [
        (f"{stage.capitalize()}, {record['images']:,} images", record["seconds"], record["workers"])
        for stage in ("ingest", "align", "parse")
        if (record := records.get(stage))
    ]
    costs += [("Pre-training", pretraining["seconds"], cores)] if pretraining else []
    costs += [(f"Fine-tuning, {run.name}", run.entry["seconds"], cores) for run in runs]
    rows = [
        [stage, duration(seconds), str(workers), f"{seconds * workers / 3600:.2f}"]
        for stage, seconds, workers in costs
    ]
    if len(rows) > 1:
        hours = sum(seconds * workers for _, seconds, workers in costs) / 3600
        rows.append(["Total", duration(sum(seconds for _, seconds, _ in costs)), "", f"{hours:.2f}"])
    return rows
