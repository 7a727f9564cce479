"""The label-efficiency study: the whole command with its records, its table, and its verdicts."""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.config import Study, load
from common.errors import UserError
from common.layout import Layout
from training.evaluate.metrics import METRICS
from training.models.attribute_groups import CELEBA_FILE
from training.study import results as study_results
from training.study import verdicts
from training.study.cell import cell_config, cell_settings
from training.study.grid import cell_file, cells
from training.study.plot import plot
from training.study.pretrainings import pretraining_config
from training.study.results import StudyResults
from training.study.schedule import Job, longest_first, run_jobs
from training.study.table import as_markdown

ROOT = Path(__file__).resolve().parent.parent

TINY: dict[str, Any] = {
    "network": {"width": 8, "input_size": 32},
    "pretrain": {"steps": 3, "batch_size": 4, "batch_norm_batches": 2, "loader_workers": 0},
    "finetune": {"batch_size": 4, "batch_norm_batches": 2, "loader_workers": 0},
    "study": {"seeds": [0, 1]},
}
GRID: dict[str, Any] = {
    "pretrainings": {"rotation": ["rotation"]},
    "pretrain_steps": {},
    "pretrain_seeds": 1,
    "semi": [],
    "student": [],
    "baselines": [],
    "labels": [0.5, 1.0],
    "steps": [2, 3],
    "draws": [3, 3],
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
    """When each result of the study was written, in nanoseconds, by its path."""
    study = project / "runs/study"
    files = [*study.glob("pretrain/*/pretrained.safetensors"), *study.glob("cells/*/*.json")]
    return {str(file.relative_to(study)): file.stat().st_mtime_ns for file in files}


@pytest.fixture(scope="module")
def studied(project: Path) -> dict[str, Any]:
    """The project after ``make study``, stopped by Ctrl-C after the first cell, and again to its end."""
    first = start_study(project)
    while not list(project.glob("runs/study/cells/*/*.json")) and first.poll() is None:
        time.sleep(0.1)
    time.sleep(1)  # the next cell starts
    os.killpg(first.pid, signal.SIGINT)
    stopped, _ = first.communicate()
    before = finished(project)
    second = start_study(project)
    resumed, _ = second.communicate()
    status = (first.returncode, second.returncode)
    return {"before": before, "stopped": stopped, "resumed": resumed, "status": status}


PENDING = """
import json, sys
from pathlib import Path
from common.freshness import code_hash, imported_modules
from common.config import load
from common.layout import Layout
from training.study import cell, pretrainings
from training.study.grid import cells
layout, root, result = Layout.at("."), Path("runs/study"), []
for settings, file, line in json.loads(sys.argv[1]):
    code = Path(file).read_text()
    Path(file).write_text(code + line)
    code_hash.cache_clear()
    imported_modules.cache_clear()
    config, done = load([Path("presets/mini.yaml")], settings), pretrainings.is_done
    names = [name for name in config.study.pretrainings if not done(config, layout, root, name, 0)]
    grid = [str(each) for each in cells(config.study) if not cell.is_done(config, layout, root, each)]
    result.append([names, grid])
    Path(file).write_text(code)
print(json.dumps(result))
"""
LOOPS = ("training/pretrain/train.py", "training/finetune/train.py")


def pending(project: Path, *cases: tuple[list[str], str, str]) -> list[list[list[str]]]:
    """Pre-trainings and cells that the study would run, by settings and a line that is added to a file."""
    command = [sys.executable, "-c", PENDING, json.dumps(cases)]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_an_interrupted_study_is_resumed_and_does_nothing_twice(
    project: Path, studied: dict[str, Any]
) -> None:
    assert studied["status"][0] != 0, studied["stopped"]
    assert studied["status"][1] == 0, studied["resumed"]
    assert 1 + 1 <= len(studied["before"]) < 1 + 8
    after = finished(project)
    assert len(after) == 1 + 2 * 2 * 2
    assert {path: after[path] for path in studied["before"]} == studied["before"]


def test_a_finished_study_runs_nothing_and_another_seed_its_own_cells(
    project: Path, studied: dict[str, Any]
) -> None:
    now, another = pending(project, ([], LOOPS[0], ""), (["study.seeds=[0,1,2]"], LOOPS[0], ""))
    assert now == [[], []]
    names, grid = another
    assert names == []
    assert grid == [
        f"{initial}, {share} % of the labels, seed 2"
        for initial in ("scratch", "rotation")
        for share in (50, 100)
    ]


def test_an_edit_of_the_code_makes_its_own_results_stale(project: Path, studied: dict[str, Any]) -> None:
    pretrain, finetune = LOOPS
    remark, stage_two, stage_one = pending(
        project,
        ([], finetune, "# a remark"),
        ([], finetune, "EDITED = True"),
        ([], pretrain, "EDITED = True"),
    )
    assert remark == [[], []]
    assert (stage_two[0], len(stage_two[1])) == ([], 8)
    assert (len(stage_one[0]), stage_one[1]) == (1, [])


def test_dvc_scans_no_pipeline_but_the_root_s() -> None:
    files = subprocess.run(
        ["git", "ls-files", "*dvc.yaml"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert files.stdout.split() == ["dvc.yaml"]


def test_a_job_that_fails_is_named_after_the_others_have_run(tmp_path: Path) -> None:
    def job(name: str, code: str) -> Job:
        return Job(name, [sys.executable, "-c", code], tmp_path / "logs" / name)

    jobs = [job("broken", "raise SystemExit('no such luck')"), job("fine", "print('ran')")]
    with pytest.raises(UserError, match=r"1 of 2 jobs failed, among them broken \(no such luck\)"):
        run_jobs(jobs, 1)
    assert (tmp_path / "logs" / "fine").read_text() == "ran\n"


def test_the_table_has_means_and_deviations_of_the_cells(project: Path, studied: dict[str, Any]) -> None:
    result = json.loads((project / "runs/study/study.json").read_text())
    assert result["missing"] == 0
    assert len(result["cells"]) == 8
    assert len(result["summary"]) == 4
    lines = (project / "runs/study/table.md").read_text().splitlines()
    for number, row in enumerate(result["summary"]):
        folder = project / "runs/study/cells" / row["initial"]
        each = [json.loads(file.read_text())["scores"] for file in sorted(folder.glob(f"{row['labels']}-*"))]
        assert row["seeds"] == len(each) == 2
        for score, summary in row["scores"].items():
            values = [scores[score] for scores in each]
            assert summary["mean"] == pytest.approx(sum(values) / 2)
            assert summary["deviation"] == pytest.approx(statistics.stdev(values))
        summaries = [row["scores"].get(metric) for metric in METRICS]
        texts = [
            f"{100 * each['mean']:.1f} ± {100 * each['deviation']:.1f}" if each else "\u2013"
            for each in summaries
        ]
        assert [cell.strip() for cell in lines[3 + number].split("|")[3:-1]] == texts
    assert (project / "runs/study/plot.svg").read_text().count("labelled faces") == 2
    assert (project / "runs/study/verdicts.md").is_file()


def test_cells_of_one_seed_see_the_same_faces_wherever_they_start(
    project: Path, studied: dict[str, Any]
) -> None:
    result = json.loads((project / "runs/study/study.json").read_text())["cells"]
    faces = {(cell["labels"], cell["initial"]): cell["faces"] for cell in result}
    assert faces[0.5, "scratch"] == faces[0.5, "rotation"] < faces[1.0, "scratch"]
    scores = [cell["scores"] for cell in result]
    assert len({json.dumps(score) for score in scores}) == len(scores)


def test_settings_of_the_semi_supervised_mode_concern_its_cells_alone() -> None:
    usual, other = load(), load(settings=["finetune.semi_supervised.weight=0.5"])
    for initial, same in (("scratch", True), ("full", True), ("semi-full", False)):
        (cell,) = cells(usual.study, initial, [0.01], [0])
        assert (cell_settings(usual, cell) == cell_settings(other, cell)) is same


def test_attribute_groups_concern_a_cell_by_their_content(tmp_path: Path) -> None:
    file = tmp_path / "groups.yaml"
    shutil.copy(CELEBA_FILE, file)
    usual, same = load(), load(settings=[f"finetune.groups={file}"])
    (cell,) = cells(usual.study, "scratch", [0.01], [0])
    assert cell_settings(usual, cell) == cell_settings(same, cell)
    groups = yaml.safe_load(file.read_text())
    groups["lower"] += [groups["upper"].pop()]
    write_yaml(file, groups)
    assert cell_settings(usual, cell) != cell_settings(same, cell)


def test_a_pre_training_leaves_out_the_tasks_that_it_does_not_list() -> None:
    config = load()
    tasks = pretraining_config(config, "rotation").pretrain.tasks
    weights = {name: block["weight"] for name, block in tasks.items()}
    assert weights.pop("rotation") == config.pretrain.tasks["rotation"]["weight"] > 0
    assert set(weights.values()) == {0}
    with pytest.raises(UserError, match="pretrainings.other lists the task turning; pretrain.tasks has"):
        load(settings=["study.pretrainings.other=[turning]"])


def test_the_grid_is_every_start_share_and_seed() -> None:
    config = load(settings=["study.semi=[full]", "study.seeds=[4, 7]"])
    result = cells(config.study)
    assert len(set(result)) == len(result) == 9 * 4 * 2
    one = cells(config.study, "semi-full", [0.05], [7])[0]
    assert one.pretraining == "full"
    probe = cells(config.study, "probe", [0.05], [7])[0]
    assert (probe.mode, probe.pretraining) == ("probe", None)
    assert cell_config(config, probe).finetune.initial == ["probe"]
    finetune = cell_config(config, one).finetune
    assert (finetune.seed, finetune.runs[0].labels, finetune.runs[0].steps) == (
        7,
        0.05,
        config.study.steps[1],
    )
    with pytest.raises(UserError, match="study.labels"):
        cells(config.study, "full", [0.07])
    with pytest.raises(UserError, match="no initialisation half"):
        cells(config.study, "half")
    for setting in ("study.steps=[1]", "study.draws=[1]"):
        with pytest.raises(UserError, match="one number for each"):
            load(settings=[setting])


def test_cells_take_the_seeds_of_a_pre_training_in_turn_and_large_shares_fewer_draws() -> None:
    config = load(
        settings=[
            "study.pretrain_seeds=2",
            "study.draws=[3, 2, 1, 1]",
            "study.student=[full]",
            "study.pretrain_steps={rotation: 7}",
        ]
    )
    result = cells(config.study, "student-full")
    assert [(cell.labels, cell.seed, cell.pretrain_seed) for cell in result] == [
        (0.01, 0, 0), (0.01, 1, 1), (0.01, 2, 0), (0.05, 0, 0), (0.05, 1, 1), (0.2, 0, 0), (1.0, 0, 0)
    ]  # fmt: skip
    assert {(cell.mode, cell.pretraining) for cell in result} == {("student", "full")}
    first, second = (pretraining_config(config, "rotation", seed).pretrain for seed in (0, 1))
    assert (first.steps, second.seed - first.seed) == (7, 1)
    assert pretraining_config(config, "full").pretrain.steps == config.pretrain.steps


def test_pre_trainings_of_the_same_tasks_differ_in_their_title_and_the_longest_run_first() -> None:
    pretrainings = "{short: [rotation], long: [rotation], both: [rotation, segmentation]}"
    steps = "{short: 100, long: 2000, both: 900}"
    config = load(
        settings=[
            f"study.pretrainings={pretrainings}", f"study.pretrain_steps={steps}", "study.semi=[]"
        ]
    )  # fmt: skip
    titles = {name: study_results.title(config.study, name) for name in ("short", "long", "both", "rotation")}
    assert titles == {
        "short": "PRT, 100 steps",
        "long": "PRT, 2,000 steps",
        "both": "PRT + PST",
        "rotation": "PRT, rotation",  # as in params.yaml, with the usual steps
    }
    order = longest_first(config)
    assert order.index("long") < order.index("both") < order.index("short")


def test_a_pre_training_may_list_a_task_that_is_off_elsewhere() -> None:
    config = load(settings=["study.pretrainings={distillation: [distillation]}", "study.semi=[]"])
    tasks = pretraining_config(config, "distillation").pretrain.tasks
    assert {name: block["weight"] for name, block in tasks.items() if block["weight"]} == {
        "distillation": 1.0
    }


@pytest.fixture
def study_of(tmp_path: Path) -> Callable[[dict[str, Iterable[float]]], StudyResults]:
    """Makes a study of made-up cells: average precision by initialisation and seed, at 1 % and 100 %."""

    def make(scores: dict[str, Iterable[float]]) -> StudyResults:
        settings = made_up()
        for cell in cells(settings):
            values = list(scores.get(cell.initial, ()))
            if cell.seed < len(values):
                value = values[cell.seed]
                result = {
                    "initial": cell.initial, "labels": cell.labels, "seed": cell.seed, "steps": 1,
                    "seconds": 1.0, "faces": round(8000 * cell.labels),
                    "majority": {"average_precision": 0.2},
                    "scores": {"accuracy": None, "balanced_accuracy": value, "average_precision": value},
                }  # fmt: skip
                file = cell_file(tmp_path, cell)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(result))
        return study_results.read_results(settings, tmp_path)

    return make


def made_up() -> Study:
    return load(
        settings=[
            "study.baselines=[]",
            "study.semi=[full]",
            "study.labels=[0.01, 1.0]",
            "study.steps=[1, 1]",
            "study.draws=[3, 3]",
        ]
    ).study


def verdict_of(study: StudyResults, words: str) -> tuple[str, float, float | None]:
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
    verdict, mean, error = verdict_of(study, "by PRT + PST + PCT + adversarial beats training")
    assert verdict == "holds"
    assert mean == pytest.approx((0.10 + 0.10 + 0.11) / 3)
    assert error == pytest.approx(statistics.stdev([0.10, 0.10, 0.11]) / 3**0.5)
    assert verdict_of(study, "by PRT beats")[0] == "fails"
    assert verdict_of(study, "by PST beats")[0] == "undecided"
    assert verdict_of(study, "best of PRT, PST, PCT")[1] == pytest.approx((0.06 + 0.02 + 0.04) / 3)
    text = verdicts.as_markdown(study)
    assert "+10.3 ± 0.3, holds" in text
    assert "by PCT beats" not in text


def test_a_single_seed_decides_nothing(study_of: Any) -> None:
    study = study_of({"scratch": [0.3], "full": [0.6]})
    assert verdict_of(study, "by PRT + PST + PCT + adversarial beats")[::2] == ("undecided", None)
    assert study.missing == 7 * 2 * 3 - 4
    assert "38 cells are not done" in as_markdown(study)


def test_seeds_are_compared_with_themselves(study_of: Any) -> None:
    spread_but_always_better = {"scratch": [0.1, 0.3, 0.5], "full": [0.15, 0.35, 0.56]}
    assert (
        verdict_of(study_of(spread_but_always_better), "by PRT + PST + PCT + adversarial beats")[0] == "holds"
    )


def test_claims_follow_from_the_pre_trainings_that_are_configured(study_of: Any) -> None:
    texts = [claim.text for claim in verdicts.claims(made_up())]
    assert texts[-3:] == [
        "PRT + PST + PCT beats the best of PRT, PST, PCT",
        "PRT + PST + PCT + adversarial beats PRT + PST + PCT",
        "Pseudo-labels of unlabelled faces improve on PRT + PST + PCT + adversarial alone",
    ]
    assert len(texts) == 5 + 3


def test_where_less_is_better_a_lower_score_wins(study_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    metric = replace(METRICS["average_precision"], higher_is_better=False)
    monkeypatch.setitem(METRICS, "average_precision", metric)
    study = study_of({"scratch": [0.3, 0.32, 0.34], "rotation": [0.2, 0.22, 0.24]})
    assert verdict_of(study, "by PRT beats")[:2] == ("holds", pytest.approx(0.1))


def test_the_plot_is_the_same_file_for_the_same_cells(study_of: Any, tmp_path: Path) -> None:
    study = study_of({"scratch": [0.3, 0.31], "full": [0.4]})
    for name in ("a.svg", "b.svg"):
        plot(study, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    text = (tmp_path / "a.svg").read_text()
    assert all(
        words in text
        for words in ("from scratch", "PRT + PST + PCT + adversarial", "8,000", "average precision")
    )
    assert ">PRT<" not in text
