"""The result page: reads what the stages wrote and hands it to `training.report.page`."""

from collections import Counter
from pathlib import Path
from typing import Final

import numpy as np
import yaml

from common import manifest
from common.config import PARAMS, Config
from common.files import write_text
from common.layout import SPLITS, Layout
from common.version import git_commit
from training.data.samples import manifest_hash
from training.report.page import page
from training.report.provenance import commands, used_config, versions
from training.report.results import Results
from training.report.runs import read_predictions, read_runs, worst_mistakes
from training.report.samples import count_splits, label_matrix, read_face, read_presence, spread
from training.report.stages import read_costs, read_finetuning, read_pretraining
from training.report.study import read_maps, read_study

FACES: Final = 12
"""Faces shown with their masks."""


def report(config: Config, layout: Layout, output: Path, file: Path) -> None:
    """Write the result page: one HTML file that loads nothing from anywhere.

    The same shards and results give the same bytes. Configuration values that are stored
    beside trained weights win over `config`, so the page says what was done.

    Args:
        config: the configuration.
        layout: where the shards and manifests lie.
        output: the folder of results, with ``finetune/``, ``evaluate/`` and, where they were
            made, ``pretrain/``, ``study/`` and ``explain/``.
        file: where the page goes.

    Raises:
        UserError: a result or a manifest is missing, or a shard is broken.
    """
    write_text(file, page(read_results(config, layout, output)))
    print(f"report: {file}")


def read_results(config: Config, layout: Layout, output: Path) -> Results:
    """All that the page shows, from the manifests, the shards and the folder of results.

    Raises:
        UserError: a result or a manifest is missing, or a shard is broken.
    """
    samples = manifest.read(layout.require_samples())
    source = manifest.read(layout.source) if layout.source.is_file() else None
    refused: Counter[str] = Counter()
    if layout.quarantine.is_file():
        refused.update(manifest.read(layout.quarantine, ["reason"]).table["reason"].to_pylist())
    labels, splits = label_matrix(samples), np.array(samples.table["split"].to_pylist(), dtype=np.str_)
    runs, majority = read_runs(output)
    shown = next((name for name in ("test", "train", *SPLITS) if (splits == name).any()), "test")
    faces = [read_face(layout, samples, i) for i in spread(np.flatnonzero(splits == shown), FACES)]
    found = read_predictions(output, samples) if runs else {}
    test = np.flatnonzero((splits == "test") & (labels >= 0).any(axis=1))
    values = used_config(config, output, runs)
    facts = {**samples.metadata, **(source.metadata if source else {})}
    values["data"].update(name=facts.get("dataset", config.data.name))
    values["data"].update(input=facts.get("root", config.data.input))
    pretraining = read_pretraining(output / "pretrain", values)
    return Results(
        dataset=values["data"]["name"],
        sources=source.table.num_rows if source else None,
        splits=count_splits(samples, splits, labels),
        refused=sorted(refused.items(), key=lambda item: (-item[1], item[0])),
        faces=faces,
        faces_split=shown,
        presence=read_presence(layout, samples),
        pretraining=pretraining,
        runs=runs,
        majority=majority,
        test_faces=len(test),
        finetuning=read_finetuning(output, runs),
        costs=read_costs(layout, pretraining, runs),
        study=read_study(output),
        maps=read_maps(output),
        mistakes=worst_mistakes(layout, samples, runs, found, labels, test),
        config=yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100),
        commands=commands(config, layout, output, values["data"]["input"]),
        shards_sha256=manifest_hash(layout),
        versions=versions(),
        commit=git_commit(PARAMS.parent),
    )
