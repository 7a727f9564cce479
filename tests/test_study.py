"""The label-efficiency study: its stages under the real DVC, its table, and when a verdict is given."""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.config import Config, load
from common.errors import UserError
from common.layout import Layout
from training.study import table, verdicts
from training.study.grid import cell_config, cell_file, cell_settings, cells, pretraining_config
from training.study.plot import plot

ROOT = Path(__file__).resolve().parent.parent

TINY: dict[str, Any] = {
    "network": {"width": 8, "input_size": 32},
    "pretrain": {"steps": 3, "batch_size": 4, "batch_norm_batches": 2, "loader_workers": 0},
    "finetune": {"batch_size": 4, "batch_norm_batches": 2, "loader_workers": 0},
    "study": {"seeds": [0, 1]},
}
GRID: dict[str, Any] = {
    "pretrainings": ["rotation"],
    "semi": [],
    "labels": [0.5, 1.0],
    "steps": [2, 3],
    "seeds": [0, 1],
}


@pytest.fixture(scope="module")
def project(shards: Layout, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code with finished shards and a tiny study; its stage ``parse`` has nothing to do."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("common", "training"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", ".dvcignore"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(str(shards.shards / "portraits"), folder / "shards" / "portraits")
    shutil.copytree(str(shards.manifests), folder / "manifests")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["study"] = GRID
    params["data"]["name"] = "portraits"
    write_yaml(folder / "params.yaml", params)
    write_yaml(folder / "presets" / "mini.yaml", TINY)
    write_yaml(
        folder / "dvc.yaml", {"stages": {"parse": {"cmd": "echo parsed > parsed", "outs": ["parsed"]}}}
    )
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / "requirements.txt").touch()
    dvc(folder, "init", "--no-scm", "--quiet")
    return folder


def write_yaml(file: Path, values: Any) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(yaml.safe_dump(values))


def dvc(project: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def start_study(project: Path) -> subprocess.Popen[str]:
    """``make study`` as a terminal would start it, in an environment that is set up already."""
    return subprocess.Popen(
        ["make", "study", "JOBS=2", "--old-file=.venv/.ready"],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finished(project: Path) -> dict[str, int]:
    """When each result that DVC has recorded was written, in nanoseconds, by its path."""
    stages = yaml.safe_load((project / "training/study/dvc.lock").read_text())["stages"]
    paths = [out["path"] for name, stage in stages.items() if name != "table" for out in stage["outs"]]
    return {path: (project / path).stat().st_mtime_ns for path in paths if not path.endswith("metrics.json")}


@pytest.fixture(scope="module")
def studied(project: Path) -> dict[str, Any]:
    """The project after ``make study``, stopped by Ctrl-C after the first cell, and again to its end."""
    first = start_study(project)
    lock = project / "training/study/dvc.lock"
    while not (lock.is_file() and "cells/" in lock.read_text()) and first.poll() is None:
        time.sleep(0.1)
    time.sleep(1)  # the next cell starts
    os.killpg(first.pid, signal.SIGINT)
    stopped, _ = first.communicate()
    before = finished(project)
    second = start_study(project)
    resumed, _ = second.communicate()
    status = (first.returncode, second.returncode)
    return {"before": before, "stopped": stopped, "resumed": resumed, "status": status}


def test_an_interrupted_study_goes_on_and_does_nothing_twice(project: Path, studied: dict[str, Any]) -> None:
    assert studied["status"][0] != 0, studied["stopped"]
    assert studied["status"][1] == 0, studied["resumed"]
    assert 2 + 1 <= len(studied["before"]) < 2 + 8
    after = finished(project)
    assert len(after) == 2 + 2 * 2 * 2
    assert {path: after[path] for path in studied["before"]} == studied["before"]


def test_a_finished_study_runs_nothing(project: Path, studied: dict[str, Any]) -> None:
    before = finished(project)
    said = dvc(project, "repro", "training/study/dvc.yaml")
    assert "Running stage" not in said
    assert "up to date" in said
    assert finished(project) == before


def test_another_seed_runs_its_own_cells_and_the_table_only(project: Path, studied: dict[str, Any]) -> None:
    file = project / "params.yaml"
    text = file.read_text()
    params = yaml.safe_load(text)
    params["study"]["seeds"] = [0, 1, 2]
    write_yaml(file, params)
    try:
        said = dvc(project, "repro", "--dry", "training/study/dvc.yaml")
    finally:
        file.write_text(text)
    ran = {line.split(":")[1].strip("'") for line in said.splitlines() if line.startswith("Running stage")}
    assert ran == {"scratch@0.5-2", "scratch@1.0-2", "tuned@rotation-0.5-2", "tuned@rotation-1.0-2", "table"}


def test_the_pipeline_alone_runs_no_study(project: Path, studied: dict[str, Any]) -> None:
    said = dvc(project, "repro", "--dry", "--force")
    assert "parse" in said
    assert "study" not in said


def test_the_table_has_means_and_deviations_of_the_cells(project: Path, studied: dict[str, Any]) -> None:
    found = json.loads((project / "runs/study/study.json").read_text())
    assert found["missing"] == 0
    assert len(found["cells"]) == 8
    assert len(found["summary"]) == 4
    lines = (project / "runs/study/table.md").read_text().splitlines()
    for number, row in enumerate(found["summary"]):
        folder = project / "runs/study/cells" / row["initial"]
        each = [json.loads(file.read_text())["scores"] for file in sorted(folder.glob(f"{row['labels']}-*"))]
        assert row["seeds"] == len(each) == 2
        for score, summary in row["scores"].items():
            values = [scores[score] for scores in each]
            assert summary["mean"] == pytest.approx(sum(values) / 2)
            assert summary["deviation"] == pytest.approx(statistics.stdev(values))
        shown = [row["scores"][score] for score in table.SHOWN]
        texts = [f"{100 * each['mean']:.1f} ± {100 * each['deviation']:.1f}" for each in shown]
        assert [cell.strip() for cell in lines[3 + number].split("|")[3:-1]] == texts
    assert (project / "runs/study/plot.svg").read_text().count("labelled faces") == 2
    assert (project / "runs/study/verdicts.md").is_file()


def test_cells_of_one_seed_see_the_same_faces_wherever_they_start(
    project: Path, studied: dict[str, Any]
) -> None:
    found = json.loads((project / "runs/study/study.json").read_text())["cells"]
    faces = {(cell["labels"], cell["initial"]): cell["faces"] for cell in found}
    assert faces[0.5, "scratch"] == faces[0.5, "rotation"] < faces[1.0, "scratch"]
    scores = [cell["scores"] for cell in found]
    assert len({json.dumps(score) for score in scores}) == len(scores)


def test_settings_of_the_semi_supervised_mode_concern_its_cells_alone() -> None:
    usual, other = load(), load(settings=["finetune.semi_supervised.weight=0.5"])
    for initial, same in (("scratch", True), ("full", True), ("semi-full", False)):
        (cell,) = cells(usual, initial, [0.01], [0])
        assert (cell_settings(usual, cell) == cell_settings(other, cell)) is same


def test_a_pre_training_leaves_out_the_tasks_of_others() -> None:
    tasks = pretraining_config(load(settings=["pretrain.tasks.angle=0.5"]), "rotation").pretrain.tasks
    assert tasks.model_dump() == {
        "segmentation": 0, "classification": 0, "rotation": 1, "angle": 0.5, "agreement": 0,
    }  # fmt: skip


def test_the_grid_is_every_start_share_and_seed() -> None:
    config = load(settings=["study.semi=[full]", "study.seeds=[4, 7]"])
    found = cells(config)
    assert len(set(found)) == len(found) == 7 * 4 * 2
    one = cells(config, "semi-full", [0.05], [7])[0]
    assert one.pretraining == "full"
    own = cell_config(config, one).finetune
    assert (own.seed, own.runs[0].labels, own.runs[0].steps) == (7, 0.05, config.study.steps[1])
    with pytest.raises(UserError, match="study.labels"):
        cells(config, "full", [0.07])
    with pytest.raises(UserError, match="no initialisation half"):
        cells(config, "half")
    with pytest.raises(UserError, match="one number for each"):
        load(settings=["study.steps=[1]"])


@pytest.fixture
def study_of(tmp_path: Path) -> Callable[[dict[str, Iterable[float]]], table.Study]:
    """Makes a study of made-up cells: average precision by initialisation and seed, at 1 % and 100 %."""

    def make(scores: dict[str, Iterable[float]]) -> table.Study:
        config = made_up()
        for cell in cells(config):
            values = list(scores.get(cell.initial, ()))
            if cell.seed < len(values):
                value = values[cell.seed]
                found = {
                    "initial": cell.initial, "labels": cell.labels, "seed": cell.seed, "steps": 1,
                    "seconds": 1.0, "faces": round(8000 * cell.labels),
                    "majority": {"average_precision": 0.2},
                    "scores": {"accuracy": None, "balanced_accuracy": value, "average_precision": value},
                }  # fmt: skip
                file = cell_file(tmp_path, cell)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(found))
        return table.read_study(config, tmp_path)

    return make


def made_up() -> Config:
    return load(settings=["study.semi=[full]", "study.labels=[0.01, 1.0]", "study.steps=[1, 1]"])


def verdict_of(study: table.Study, words: str) -> tuple[str, float, float | None]:
    rows = [row for row in verdicts.verdicts(study) if words in row["claim"] and row["labels"] == 0.01]
    row = next(row for row in rows if row["score"] == "average_precision")
    return row["verdict"], row["difference"], row["error"]


def test_a_claim_holds_fails_or_is_undecided_by_its_standard_error(study_of: Any) -> None:
    study = study_of(
        {
            "scratch": [0.30, 0.32, 0.34],
            "rotation": [0.25, 0.28, 0.29],
            "segmentation": [0.30, 0.34, 0.33],
            "joint": [0.36, 0.36, 0.37],
            "full": [0.40, 0.42, 0.45],
        }
    )
    verdict, mean, error = verdict_of(study, "SSPL beats training from scratch")
    assert verdict == "holds"
    assert mean == pytest.approx((0.10 + 0.10 + 0.11) / 3)
    assert error == pytest.approx(statistics.stdev([0.10, 0.10, 0.11]) / 3**0.5)
    assert verdict_of(study, "PRT only")[0] == "fails"
    assert verdict_of(study, "PST only")[0] == "undecided"
    assert verdict_of(study, "complement")[1] == pytest.approx((0.06 + 0.02 + 0.04) / 3)
    text = verdicts.as_markdown(study)
    assert "+10.3 ± 0.3, holds" in text
    assert "PCT only beats" not in text


def test_a_single_seed_decides_nothing(study_of: Any) -> None:
    study = study_of({"scratch": [0.3], "full": [0.6]})
    assert verdict_of(study, "SSPL beats")[::2] == ("undecided", None)
    assert study.missing == 7 * 2 * 3 - 4
    assert "38 cells are not done" in table.as_markdown(study)


def test_seeds_are_compared_with_themselves(study_of: Any) -> None:
    spread_but_always_better = {"scratch": [0.1, 0.3, 0.5], "full": [0.15, 0.35, 0.56]}
    assert verdict_of(study_of(spread_but_always_better), "SSPL beats")[0] == "holds"


def test_a_target_is_met_by_the_mean_that_was_measured(study_of: Any) -> None:
    scores = {"scratch": [0.30, 0.30], "full": [0.39, 0.40], "semi-full": [0.41, 0.42]}
    met = {(row["target"], row["points"]): row["met"] for row in verdicts.reached(study_of(scores))}
    assert met["full SSPL above from scratch, mean average precision, 1 % of the labels", 10] is False
    assert met["full SSPL above from scratch, balanced accuracy, 1 % of the labels", 5] is True
    better = "semi-supervised from full above full SSPL, mean average precision, 1 % of the labels"
    assert met[better, 1] is True


def test_the_plot_is_the_same_file_for_the_same_cells(study_of: Any, tmp_path: Path) -> None:
    study = study_of({"scratch": [0.3, 0.31], "full": [0.4]})
    for name in ("a.svg", "b.svg"):
        plot(study, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    text = (tmp_path / "a.svg").read_text()
    assert all(words in text for words in ("from scratch", "full SSPL", "8,000", "mean average precision"))
    assert "PRT only" not in text
