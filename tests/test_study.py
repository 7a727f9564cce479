"""The label-efficiency study: the whole command, which resumes, and its tables."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from common.config import load
from common.errors import UserError
from common.layout import Layout
from tests.commands import ROOT, run_command
from training.evaluate.metrics import METRICS
from training.study import paper
from training.study.__main__ import run_all
from training.study.results import MISSING, StudyResults, draw_folder, plot, read_results, tables

TINY = [
    *("network.width=8", "network.input_size=32", "trainer.loader_workers=0"),
    *("pretrain.steps=3", "pretrain.batch_size=4", "pretrain.validate_every=null"),
    *("finetune.batch_size=4", "finetune.runs=[{labels: 1.0, steps: 2}]"),
    *("evaluate.resamples=5", "study.methods=[scratch, pretrained]", "study.draws=2"),
]


def arguments(shards: Layout, output: Path) -> list[str]:
    settings = [argument for setting in TINY for argument in ("--set", setting)]
    return [*settings, "--jobs", "2", "--shards", str(shards.shards), "--output", str(output)]


def finished(output: Path) -> dict[str, int]:
    """When each network of the study that has a record was written, in nanoseconds, by its path."""
    files = [*output.glob("*/pretrain/pretrained.safetensors"), *output.glob("*/finetune/*/classifier.pt")]
    files = [file for file in files if (file.parent / "run.json").is_file()]
    return {str(file.relative_to(output)): file.stat().st_mtime_ns for file in files}


def test_an_interrupted_study_is_resumed_does_nothing_twice_and_has_a_table(shards, tmp_path):
    command = [sys.executable, "-m", "training.study", *arguments(shards, tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    first = subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipes)
    while not finished(tmp_path) and first.poll() is None:
        time.sleep(0.1)
    os.killpg(first.pid, signal.SIGINT)
    stopped, _ = first.communicate()
    assert first.returncode != 0, stopped
    before = finished(tmp_path)
    assert 0 < len(before) < 2 * (1 + 2)

    resumed = run_command("training.study", *arguments(shards, tmp_path))
    assert resumed.returncode == 0, resumed
    after = finished(tmp_path)
    assert len(after) == 2 * (1 + 2)
    assert {path: after[path] for path in before} == before

    study = json.loads((tmp_path / "study.json").read_text())
    assert study["missing"] == 0
    assert [(row["method"], row["seeds"]) for row in study["summary"]] == [("scratch", 2), ("pretrained", 2)]
    losses = {run["loss"] for run in study["runs"]}
    assert len(losses) == len(study["runs"]) == 4  # every draw has seeds of its own
    assert resumed.stdout.endswith((tmp_path / "table.md").read_text())
    assert (tmp_path / "plot.svg").read_text().count("labelled faces") == 2


TITLES = {"scratch": "from scratch", "probe": "linear probe", "pretrained": "pre-trained"}


@pytest.fixture
def study_of(tmp_path):
    """Makes a study of so many draws: average precision by method and draw, with 80 and 8,000 labels."""

    def make(scores: Mapping[str, Sequence[float]], draws: int) -> StudyResults:
        for draw in range(max(map(len, scores.values()))):
            folder, runs, means = draw_folder(tmp_path, draw), [], dict[str, Any]()
            means["majority class"] = dict.fromkeys(METRICS, 0.2)
            for method, values in scores.items():
                for labels in (0.01, 1.0):
                    run = {"name": f"{method}-{labels}", "method": method, "title": TITLES[method]}
                    if draw < len(values):
                        runs.append({**run, "labels": labels, "faces": round(8000 * labels)})
                        means[run["name"]] = {**dict.fromkeys(METRICS), "average_precision": values[draw]}
            for file, content in (("finetune/runs.json", runs), ("evaluate/metrics.json", means)):
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).write_text(json.dumps(content))
        return read_results(draws, tmp_path)

    return make


def test_the_tables_and_the_plot_have_means_and_gains_of_the_same_draws(study_of, tmp_path):
    study = study_of({"scratch": [0.30, 0.32, 0.34], "probe": [0.41, 0.42, 0.45], "pretrained": [0.2]}, 5)
    row = next(row for row in study.summary() if (row["method"], row["faces"]) == ("probe", 80))
    assert row["scores"]["average_precision"]["mean"] == pytest.approx(1.28 / 3)
    assert row["gains"]["average_precision"]["mean"] == pytest.approx(0.32 / 3)
    assert row["gains"]["average_precision"]["error"] == pytest.approx(0.0033333, abs=1e-6)
    text = tables(study)
    assert "2 draws are not done" in text and "over 3 draws" in text
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line]
    position = 2 + list(METRICS).index("average_precision")
    assert next(row[position] for row in cells if row[1] == "linear probe") == "42.7 ± 2.1"
    assert next(row[position] for row in cells if row[1] == "pre-trained") == "20.0"  # of a single draw
    assert ["80 (1 %)", "linear probe", MISSING, "+10.7 ± 0.3"] in cells
    files = [tmp_path / "a.svg", tmp_path / "b.svg"]
    for file in files:
        plot(study, file)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert all(words in files[0].read_text() for words in (*TITLES.values(), "8,000", "average precision"))


def test_a_draw_that_fails_is_named_after_the_others_have_run_and_without_one_there_is_no_study(tmp_path):
    codes = {"draw 0": "raise SystemExit('no such luck')", "draw 1": "print('ran')"}
    commands = {name: [sys.executable, "-c", code] for name, code in codes.items()}
    with pytest.raises(UserError, match=r"1 of 2 failed, among them draw 0 \(no such luck\)"):
        run_all(commands, tmp_path, 1)
    assert (tmp_path / "draw1.log").read_text() == "ran\n"
    with pytest.raises(UserError, match="no finished draw .*`python -m training.study` makes them"):
        read_results(3, tmp_path)


def test_the_papers_table_has_a_row_for_each_of_its_numbers_of_labels(shards, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paper, "PUBLISHED", {4: 86.67, 5: 88.05, 3255: 89.58})
    paper.run_paper(load(settings=["study.draws=1"]), shards, tmp_path, "auto")
    rows = [line.split("|")[1:-1] for line in (tmp_path / "table.md").read_text().splitlines() if "|" in line]
    assert [[cell.strip() for cell in row[:2]] for row in rows[2:]] == [["4", "86.67"], ["5", "88.05"]]
    assert all(0 < float(cell) < 100 for row in rows[2:] for cell in row[2:])
    listed = [set(file.read_text().split()) for file in (tmp_path / "lists").glob("*-4.txt")]
    assert [len(keys) for keys in listed] == [4, 4] and listed[0] != listed[1]
    monkeypatch.setattr(paper, "PUBLISHED", {3255: 89.58})
    with pytest.raises(UserError, match="labelled train faces; the paper's table begins at 3255"):
        paper.run_paper(load(), shards, tmp_path, "auto")
