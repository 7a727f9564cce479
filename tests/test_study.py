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

from common.config import load
from common.errors import UserError
from common.layout import Layout
from training.evaluate.metrics import METRICS
from training.study import paper, verdicts
from training.study.draws import SCORES
from training.study.grid import arms, draw_config, draw_folder, find_arm, pretraining_config
from training.study.output import plot, table, verdict_text
from training.study.results import StudyResults, read_results
from training.study.schedule import Job, run_jobs

ROOT = Path(__file__).resolve().parent.parent

TINY: dict[str, Any] = {
    "network": {"width": 8, "input_size": 32},
    "trainer": {"loader_workers": 0},
    "pretrain": {"steps": 3, "batch_size": 4},
    "finetune": {"batch_size": 4, "runs": [{"labels": 0.5, "steps": 2}, {"labels": 1.0, "steps": 3}]},
}
STUDY: dict[str, Any] = {
    "methods": ["scratch", "pretrained"],
    "pretrainings": {"rotation": ["rotation"]},
    "pretrain_seeds": 1,
    "draws": 2,
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
    params["study"] = STUDY
    params["data"]["name"] = "portraits"
    write_yaml(folder / "params.yaml", params)
    write_yaml(folder / "presets" / "mini.yaml", TINY)
    write_yaml(
        folder / "dvc.yaml", {"stages": {"parse": {"cmd": "echo parsed > parsed", "outs": ["parsed"]}}}
    )
    (folder / ".venv").symlink_to(sys.prefix)
    for name in ("pyproject.toml", "requirements.txt"):
        (folder / name).touch()
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
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
    files = [*study.glob("pretrain/*/pretrained.safetensors"), *study.glob("draws/*/*/*/classifier.pt")]
    return {str(file.relative_to(study)): file.stat().st_mtime_ns for file in files}


@pytest.fixture(scope="module")
def studied(project: Path) -> dict[str, Any]:
    """The project after ``make study``, stopped by Ctrl-C after the first run, and again to its end."""
    first = start_study(project)
    while not list(project.glob("runs/study/draws/*/*/*/classifier.pt")) and first.poll() is None:
        time.sleep(0.1)
    time.sleep(1)  # the next run starts
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
from training.study.draws import draw_is_done, pretraining_is_done
from training.study.grid import arms
layout, root, result = Layout.at("."), Path("runs/study"), []
for settings, file, line in json.loads(sys.argv[1]):
    code = Path(file).read_text()
    Path(file).write_text(code + line)
    code_hash.cache_clear()
    imported_modules.cache_clear()
    config, done = load([Path("presets/mini.yaml")], settings), pretraining_is_done
    names = [name for name in config.study.pretrainings if not done(config, layout, root, name, 0)]
    grid = [(arm, draw) for arm in arms(config.study) for draw in range(config.study.draws)]
    pending = [f"{arm}, {draw}" for arm, draw in grid if not draw_is_done(config, layout, root, arm, draw)]
    result.append([names, pending])
    Path(file).write_text(code)
print(json.dumps(result))
"""
STAGE_1, NETWORKS, SCRATCH = (
    "training/pretrain/train.py",
    "training/methods/network.py",
    "training/methods/scratch.py",
)


def pending(project: Path, *cases: tuple[list[str], str, str]) -> list[list[list[str]]]:
    """Pre-trainings and draws that the study would run, by settings and a line that is added to a file."""
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


def test_only_what_a_change_concerns_becomes_stale(project: Path, studied: dict[str, Any]) -> None:
    groups = project / "groups.yaml"
    shutil.copy(ROOT / "training/models/attribute_groups.yaml", groups)
    regions = project / "regions.yaml"
    regions.write_text("Male: [skin]\n")
    edited = project / "edited.yaml"
    edited.write_text("upper: [Bangs]\n")
    every = [f"{arm}, {draw}" for arm in ("scratch", "pretrained-rotation") for draw in (0, 1)]
    cases: dict[str, tuple[tuple[list[str], str, str], list[list[str]]]] = {
        "nothing": (([], STAGE_1, ""), [[], []]),
        "a third draw": (
            (["study.draws=3"], STAGE_1, ""),
            [[], ["scratch, 2", "pretrained-rotation, 2"]],
        ),
        "a remark": (([], NETWORKS, "# a remark"), [[], []]),
        "how networks train": (([], NETWORKS, "EDITED = True"), [[], every]),
        "one method": (([], SCRATCH, "EDITED = True"), [[], every[:2]]),
        "stage 1": (([], STAGE_1, "EDITED = True"), [["rotation"], []]),
        "the same groups in a file": (([f"finetune.groups={groups}"], STAGE_1, ""), [[], []]),
        "other groups": (([f"finetune.groups={edited}"], STAGE_1, ""), [[], every]),
        "regions, which networks do not read": (([f"finetune.regions={regions}"], STAGE_1, ""), [[], []]),
        "heads_rate, of trained networks": ((["finetune.heads_rate=0.5"], STAGE_1, ""), [[], every[2:]]),
    }
    results = pending(project, *(case for case, _ in cases.values()))
    assert dict(zip(cases, results, strict=True)) == {name: stale for name, (_, stale) in cases.items()}


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


def test_the_table_has_means_and_deviations_of_the_draws(project: Path, studied: dict[str, Any]) -> None:
    result = json.loads((project / "runs/study/study.json").read_text())
    assert result["missing"] == 0
    assert len(result["runs"]) == 8
    assert len(result["summary"]) == 4
    lines = (project / "runs/study/table.md").read_text().splitlines()
    for number, row in enumerate(result["summary"]):
        mine = [run for run in result["runs"] if (run["arm"], run["faces"]) == (row["arm"], row["faces"])]
        assert row["seeds"] == len(mine) == 2
        for score, summary in row["scores"].items():
            values = [run["scores"][score] for run in mine]
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
    faces = {(run["labels"], run["arm"]): run["faces"] for run in result["runs"]}
    assert faces[0.5, "scratch"] == faces[0.5, "pretrained-rotation"] < faces[1.0, "scratch"]
    scores = [json.dumps(run["scores"]) for run in result["runs"]]
    assert len(set(scores)) == len(scores)


def test_a_pre_training_leaves_out_the_tasks_that_it_does_not_list() -> None:
    config = load(settings=["study.pretrainings={rotation: [rotation]}"])
    first, second = (pretraining_config(config, "rotation", seed).pretrain for seed in (0, 1))
    weights = {name: block["weight"] for name, block in first.tasks.items()}
    assert weights.pop("rotation") == config.pretrain.tasks["rotation"]["weight"] > 0
    assert set(weights.values()) == {0}
    assert second.seed - first.seed == 1
    off = load(settings=["study.pretrainings={rotation: [rotation]}", "pretrain.tasks.rotation.weight=0.0"])
    assert pretraining_config(off, "rotation").pretrain.tasks["rotation"]["weight"] == 1.0
    with pytest.raises(UserError, match="pretrainings.other lists the task turning; pretrain.tasks has"):
        load(settings=["study.pretrainings.other=[turning]"])


def test_methods_that_start_from_stage_1_do_so_from_every_pre_training() -> None:
    pretrainings = "{few: [rotation], full: [rotation, segmentation]}"
    config = load(settings=[f"study.pretrainings={pretrainings}", "study.methods=[probe, pretrained]"])
    names = {str(arm): arm.title(config.study) for arm in arms(config.study)}
    assert names == {
        "probe": "linear probe",
        "pretrained-few": "pre-trained, PRT",
        "pretrained-full": "pre-trained, PRT + PST",
    }
    finetune = draw_config(config, find_arm(config.study, "probe"), 2).finetune
    assert (finetune.seed, finetune.methods, finetune.runs) == (2, ["probe"], config.finetune.runs)
    with pytest.raises(UserError, match="the study has no half; .* probe, pretrained-full, pretrained-few"):
        find_arm(config.study, "half")
    with pytest.raises(UserError, match="no method guess; finetune.methods may name scratch"):
        arms(load(settings=["study.methods=[guess]"]).study)
    claims = [claim.text for claim in verdicts.claims(config.study)]
    assert claims == [
        "pre-trained, PRT + PST beats linear probe",
        "pre-trained, PRT + PST beats the best with fewer tasks: pre-trained, PRT",
        "pre-trained, PRT beats linear probe",
        "pre-trained, PRT beats the best of the methods above",
    ]


@pytest.fixture
def study_of(tmp_path: Path) -> Callable[[dict[str, Iterable[float]]], StudyResults]:
    """Makes a study of made-up draws: average precision by arm and draw, with 80 and 8,000 labels."""
    settings = load(settings=["study.methods=[scratch, probe, region_probe, pretrained]"]).study

    def make(scores: dict[str, Iterable[float]]) -> StudyResults:
        for name, values in scores.items():
            arm = find_arm(settings, name)
            for draw, value in enumerate(values):
                runs = [
                    {
                        "arm": name, "draw": draw, "labels": labels, "faces": round(8000 * labels),
                        "scores": {"accuracy": None, "balanced_accuracy": value, "average_precision": value},
                    }
                    for labels in (0.01, 1.0)
                ]  # fmt: skip
                file = draw_folder(tmp_path, arm, draw) / SCORES
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps({"runs": runs, "majority": {"average_precision": 0.2}}))
        return read_results(settings, tmp_path)

    return make


def verdict_of(study: StudyResults, claim: str) -> tuple[str, float, float | None]:
    rows = [row for row in verdicts.verdicts(study) if row["claim"] == claim and row["faces"] == 80]
    row = next(row for row in rows if row["score"] == "average_precision")
    return row["verdict"], row["difference"], row["error"]


def test_a_claim_holds_fails_or_is_undecided_by_its_standard_error(study_of: Any) -> None:
    study = study_of(
        {
            "scratch": [0.30, 0.32, 0.34],
            "probe": [0.25, 0.28, 0.29],
            "region_probe": [0.30, 0.34, 0.33],
            "pretrained-full": [0.40, 0.42, 0.45],
        }
    )
    verdict, mean, error = verdict_of(study, "pre-trained beats from scratch")
    assert verdict == "holds"
    assert mean == pytest.approx((0.10 + 0.10 + 0.11) / 3)
    assert error == pytest.approx(statistics.stdev([0.10, 0.10, 0.11]) / 3**0.5)
    assert verdict_of(study, "linear probe beats from scratch")[0] == "fails"
    assert verdict_of(study, "region probe beats from scratch")[0] == "undecided"
    best = verdict_of(study, "pre-trained beats the best of the methods above")
    assert best[1] == pytest.approx((0.10 + 0.08 + 0.12) / 3)
    assert "+10.3 ± 0.3, holds" in verdict_text(verdicts.verdicts(study))


def test_a_single_draw_decides_nothing_and_draws_are_compared_with_themselves(study_of: Any) -> None:
    study = study_of({"scratch": [0.3], "pretrained-full": [0.6]})
    assert verdict_of(study, "pre-trained beats from scratch")[::2] == ("undecided", None)
    assert study.missing == 4 * 3 - 2
    assert "10 draws are not done" in table(study)
    spread_but_always_better = {"scratch": [0.1, 0.3, 0.5], "pretrained-full": [0.15, 0.35, 0.56]}
    assert verdict_of(study_of(spread_but_always_better), "pre-trained beats from scratch")[0] == "holds"


def test_where_less_is_better_a_lower_score_wins(study_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    metric = replace(METRICS["average_precision"], higher_is_better=False)
    monkeypatch.setitem(METRICS, "average_precision", metric)
    study = study_of({"scratch": [0.3, 0.32, 0.34], "probe": [0.2, 0.22, 0.24]})
    assert verdict_of(study, "linear probe beats from scratch")[:2] == ("holds", pytest.approx(0.1))


def test_the_plot_is_the_same_file_for_the_same_draws(study_of: Any, tmp_path: Path) -> None:
    study = study_of({"scratch": [0.3, 0.31], "pretrained-full": [0.4]})
    for name in ("a.svg", "b.svg"):
        plot(study, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    text = (tmp_path / "a.svg").read_text()
    assert all(words in text for words in ("from scratch", "pre-trained", "8,000", "average precision"))
    assert "linear probe" not in text


def test_the_papers_table_has_a_row_for_each_of_its_numbers_of_labels(
    shards: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
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
