"""The result page: gathers what the stages wrote and has ``templates/report.html.j2`` lay it out."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import yaml

from common.config import PARAMS, Config
from common.files import write_text
from common.freshness import git_commit
from common.layout import Layout
from common.page.figures import SERIES
from common.page.render import render
from training.data.index import manifest_hash
from training.evaluate.metrics import METRICS
from training.report.costs import cost_rows
from training.report.dataset import read_dataset
from training.report.diagnostics import read_maps, reliability_figures, subgroup_tables
from training.report.headline import headline, lede, without_runs
from training.report.initialisations import colours, title
from training.report.mistakes import find_mistakes
from training.report.pretraining import read_pretraining
from training.report.provenance import commands, used_config, versions
from training.report.runs import MAIN, Evaluation, challenger, read_evaluation
from training.report.scores import attribute_bars, label_figures, labels_of, score_cells
from training.report.study import read_study

TEMPLATES: Final = Path(__file__).parent / "templates"


def report(config: Config, layout: Layout, output: Path, file: Path) -> None:
    """Write the result page: one HTML file that loads nothing; the same results give the same bytes.

    Configuration values that are stored beside trained weights take precedence over `config`, so the page
    describes what was done. `output` has ``finetune/``, ``evaluate/`` and, where they were made,
    ``pretrain/``, ``study/`` and ``explain/``.

    Raises:
        UserError: a result or a manifest is missing, or a shard is broken.
    """
    write_text(file, render(TEMPLATES, "report.html.j2", **read_results(config, layout, output)))
    print(f"report: {file}")


def read_results(config: Config, layout: Layout, output: Path) -> dict[str, Any]:
    """The values of the template, from the manifests, the shards and the folder of results; see `report`."""
    dataset = read_dataset(layout, config.data.name, str(config.data.input))
    evaluation = read_evaluation(output, dataset.labelled("test"))
    used = used_config(config, output, evaluation)
    used["data"].update(name=dataset.name, input=dataset.root)
    pretraining = read_pretraining(output / "pretrain")
    pretrained_on = pretraining["samples"] if pretraining else None
    return {
        "title": f"Facial attributes from few labels: {dataset.name}",
        "headline": headline(evaluation, pretrained_on)
        if evaluation
        else without_runs(dataset.faces(), dataset.labelled(*dataset.splits), pretrained_on),
        **_evaluated(evaluation),
        "mistakes": find_mistakes(output, dataset.splits["test"], evaluation) if evaluation else None,
        "maps": read_maps(output / "explain"),
        "study": read_study(output / "study"),
        "dataset": dataset,
        "pretraining": pretraining,
        "batch_size": used["pretrain"]["batch_size"],
        "costs": cost_rows(layout, pretraining, evaluation.runs if evaluation else []),
        "commands": commands(config, layout, output, used["data"]["input"]),
        "config": yaml.safe_dump(used, sort_keys=False, allow_unicode=True, width=100),
        "shards_sha256": manifest_hash(layout),
        "versions": versions(),
        "commit": git_commit(PARAMS.parent),
    }


def _evaluated(evaluation: Evaluation | None) -> dict[str, Any]:
    """The values that come from evaluated runs; without any, the template needs only that there are none."""
    if evaluation is None:
        return {"evaluation": None}
    bars, undefined = attribute_bars(evaluation)
    return {
        "evaluation": evaluation,
        "lede": lede(evaluation),
        "metrics": list(METRICS.values()),
        "main": METRICS[MAIN],
        "score_cells": score_cells,
        "labels_of": labels_of,
        "name": title,
        "legend_entries": _legend_entries,
        "colours": colours([run.initial for run in evaluation.runs]),
        "challenger": challenger(evaluation.budgets[0]),
        "label_figures": label_figures(evaluation),
        "attribute_bars": bars,
        "undefined": undefined,
        "reliability": reliability_figures(evaluation),
        "subgroups": subgroup_tables(evaluation),
    }


def _legend_entries(initials: Iterable[str]) -> list[tuple[str, str]]:
    """(CSS class, title) of initialisations."""
    return [(f"series-{number % len(SERIES)}", title(name)) for name, number in colours(initials).items()]
