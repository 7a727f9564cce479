"""What makes a result stale: code, settings, labels, input and networks, through DVC and without."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml

from common import manifest
from common.config import load
from common.errors import UserError
from common.freshness import ROOT, code_hash, imported_modules
from common.hardware import hardware
from common.layout import DEFAULT_SHARDS, Layout
from pipeline.graph import networks, write_networks
from tests import manifests
from tests.listings import photo
from training.engine.distributed import Ranks
from training.methods.method import Context
from training.methods.runs import METHODS, labelled_faces, made_from

FILES = {
    "app/__init__.py": "",
    "app/store/__init__.py": "",
    "app/store/schema.py": '"""The schema."""\nYEAR = 1990\n"""Of the release."""\nNAME = "a"\n',
    "app/store/labels.yaml": "colour: red\n",
    "app/store/templates/label.html.j2": "<b>{{ colour }}</b>\n",
    "app/store/notes.md": "To be done.\n",
    "app/main.py": "import os\nfrom . import worker\nfrom .store.schema import YEAR\n",
    "app/worker.py": "def work():\n    import app.timing\n    from app.main import YEAR\n",
    "app/timing.py": "import json, numpy\n",
    "app/other.py": "import app.main\n",
}
MAIN = sorted(name for name in FILES if name not in ("app/store/notes.md", "app/other.py"))


@pytest.fixture
def project(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_walk_follows_imports_in_functions_and_relative_ones_to_packages_and_data(project):
    main, timing = (imported_modules(f"app.{name}", project) for name in ("main", "timing"))
    assert [file.as_posix() for file in main] == MAIN
    assert [file.as_posix() for file in timing] == ["app/__init__.py", "app/timing.py"]


@pytest.mark.parametrize(
    ("name", "text", "same"),
    [
        ("worker.py", f'def work():\n    """Work."""\n{FILES["app/worker.py"].partition(":")[2]}', True),
        ("timing.py", "# Measures time.\nimport json, \\\n    numpy\n", True),
        ("store/schema.py", 'YEAR = 1990\n"""Of the first release."""\nNAME = "a"\n', True),
        ("store/notes.md", "Done.\n", True),
        ("other.py", "import app.timing\n", True),
        ("store/schema.py", 'YEAR = 1991\nNAME = "a"\n', False),
        ("store/schema.py", 'YEAR = 1990\nNAME = "b"\n', False),
        ("timing.py", "import numpy, json\n", False),
        ("store/labels.yaml", "colour: white\n", False),
        ("store/templates/label.html.j2", "<i>{{ colour }}</i>\n", False),
        ("store/__init__.py", "import sys\n", False),
        ("store/more.json", "{}\n", False),
    ],
)
def test_code_and_data_change_the_hash_and_remarks_and_formatting_do_not(project, tmp_path, name, text, same):
    shutil.copytree(project / "app", tmp_path / "copy" / "app")
    (tmp_path / "copy" / "app" / name).write_text(text)
    assert (code_hash("app.main", tmp_path / "copy") == code_hash("app.main", project)) == same


SMALL = [
    *("data.name=portraits", "network.width=8", "network.input_size=32", "pretrain.steps=2"),
    *("pretrain.batch_size=4", "pretrain.validate_every=null", "finetune.runs=[{labels: 1.0, steps: 2}]"),
    *("finetune.methods=[pretrained]", "finetune.batch_size=4", "trainer.loader_workers=0"),
]
NETWORKS = "training/methods/network.py"
STAGE_1 = "training.pretrain.train"
PROBES = ("probe", "region_probe")


def hashes(project: Path) -> dict[str, str]:
    modules = {STAGE_1: STAGE_1} | {name: type(method).__module__ for name, method in METHODS.items()}
    code_hash.cache_clear()
    imported_modules.cache_clear()
    return {name: code_hash(module, project) for name, module in modules.items()}


@pytest.fixture(scope="module")
def unedited(tmp_path_factory):
    """A copy of the code of training, and its hashes."""
    copy, without = tmp_path_factory.mktemp("code"), shutil.ignore_patterns("__pycache__", "*.jpg")
    for package in ("common", "training"):
        shutil.copytree(ROOT / package, copy / package, ignore=without)
    return copy, hashes(copy)


@pytest.mark.parametrize(
    ("file", "line", "stale"),
    [
        (NETWORKS, "# a remark", set()),
        (NETWORKS, "EDITED = True", set(METHODS) - {*PROBES}),
        ("training/methods/pretrained.py", "EDITED = True", {"pretrained"}),
        ("training/methods/kernel_regression.py", "EDITED = True", {"region_probe", "student"}),
        ("training/pretrain/model.py", "EDITED = True", {STAGE_1}),
        ("training/engine/trainer.py", "EDITED = True", {STAGE_1, *METHODS} - {*PROBES}),
        ("training/report/page.py", "EDITED = True", set()),
    ],
)
def test_an_edit_of_code_makes_stale_what_runs_it(file, line, stale, unedited):
    project, before = unedited
    text = (project / file).read_text()
    (project / file).write_text(f"{text}\n{line}\n")
    after = hashes(project)
    (project / file).write_text(text)
    assert {name for name in after if after[name] != before[name]} == stale


@pytest.mark.parametrize(
    ("setting", "stale"),
    [
        ("finetune.groups={same}", set()),
        ("finetune.groups={edited}", set(METHODS) - {*PROBES}),
        ("finetune.regions={regions}", {"region_probe", "student"}),
        ("finetune.heads_rate=0.5", {"pretrained"}),
        ("network.width=16", set(METHODS) - {"student"}),
        ("finetune.seed=1", set(METHODS)),
        ("evaluate.batch_size=7", set()),
    ],
)
def test_a_setting_makes_stale_what_reads_it(setting, stale, shards, tmp_path):
    files = {name: tmp_path / f"{name}.yaml" for name in ("same", "edited", "regions")}
    shutil.copy(ROOT / "training" / "models" / "attribute_groups.yaml", files["same"])
    files["edited"].write_text("upper: [Bangs]\n")
    files["regions"].write_text("Male: [skin]\n")

    def inputs(*settings: str) -> dict[str, object]:
        config = load(settings=[*SMALL, *settings])
        context = Context(config, shards, Ranks(0, 1, hardware().device), "auto")
        (run,) = context.settings.runs
        labelled = labelled_faces(context, run)
        return {
            name: made_from(context, method, run, labelled, tmp_path / "pretrained.safetensors")
            for name, method in METHODS.items()
        }

    before, after = inputs(), inputs(setting.format_map(files))
    assert {name for name in before if before[name] != after[name]} == stale


def test_dvc_trains_again_what_labels_or_settings_change_and_nothing_else(shards, tmp_path):
    shutil.copytree(shards.shards / "portraits", tmp_path / "shards" / "portraits")
    (tmp_path / "manifests").mkdir()
    shutil.copy(shards.samples, tmp_path / "manifests")
    copy_project(tmp_path, ("common", "training"), ("pretrain", "finetune"), SMALL)
    weights = tmp_path / "runs" / "pretrain" / "pretrained.safetensors"
    classifier = tmp_path / "runs" / "finetune" / "pretrained-100%" / "classifier.pt"

    configure(tmp_path, [*SMALL, "pretrain.steps=100000", "trainer.checkpoint_minutes=0.001"])
    with start_dvc(tmp_path, "repro", "finetune") as running:
        while not list(weights.parent.glob("checkpoints/step-*.pt")):
            assert running.poll() is None
            time.sleep(0.1)
        os.killpg(running.pid, signal.SIGKILL)
    configure(tmp_path, SMALL)
    output = dvc(tmp_path, "repro", "finetune")
    assert "pretrain: starting anew, because" in output
    assert "(pretrain.steps: 100000 -> 2); its checkpoints are kept in runs/pretrain/checkpoints-1" in output
    assert "Running stage 'finetune'" in output
    assert "Running stage" not in dvc(tmp_path, "repro", "finetune")

    written = weights.stat().st_mtime_ns, classifier.stat().st_mtime_ns
    samples = manifest.read(tmp_path / "manifests" / "shards.parquet")
    labels = pa.array(np.arange(samples.table.num_rows) % 2, pa.int8())
    table = samples.table.append_column(pa.field("Freckled", pa.int8()), labels)
    names = (*samples.attributes, "Freckled")
    manifests.write_table(tmp_path / "manifests" / "shards.parquet", table, names, samples.metadata)
    assert "pretrain: runs/pretrain is up to date" in dvc(tmp_path, "repro", "finetune")
    assert weights.stat().st_mtime_ns == written[0]
    assert classifier.stat().st_mtime_ns > written[1]


@pytest.fixture(scope="module")
def dvc_copy(tmp_path_factory):
    """A copy of the project with the stages up to the plan."""
    copy = tmp_path_factory.mktemp("project")
    copy_project(copy, ("common", "pipeline", "synthetic"), ("sample", "ingest"), [])
    return copy


def repro(dvc_copy: Path, source: str | Path) -> str:
    """The output of DVC for an input."""
    configure(dvc_copy, [f'data.input="{source}"', "data.name=photos", "sample.count=8"])
    return dvc(dvc_copy, "repro", "ingest")


def write_input(folder: Path) -> Path:
    """Two photos and a table of labels."""
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (folder / name).write_bytes(photo(ord(name[0])))
    (folder / "labels.csv").write_text("path,Smiling\na.jpg,1\nb.jpg,0\n")
    return folder


def reasons(dvc_copy: Path) -> dict[str, str | None]:
    rows = manifest.read(dvc_copy / "manifests" / "source.parquet").rows()
    return {str(row["source"]): row["reason"] for row in rows}


def rewrite(file: Path, old: str, new: str) -> None:
    """Change text in a file, which keeps its size and its time."""
    status = file.stat()
    file.write_text(file.read_text().replace(old, new))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file.stat().st_size == status.st_size


def test_the_plan_follows_the_input_and_is_the_same_where_nothing_has_changed(dvc_copy, tmp_path):
    folder, plan = write_input(tmp_path / "in"), dvc_copy / "manifests" / "source.parquet"
    (folder / "labels.csv").write_text("path,Smiling\na.jpg,1\nb.jpg,0\nc.jpg,1\n")
    repro(dvc_copy, folder)
    assert reasons(dvc_copy)["c.jpg"] is not None
    before = plan.read_bytes()
    repro(dvc_copy, folder)
    assert plan.read_bytes() == before
    (folder / "c.jpg").write_bytes(photo(1))
    rewrite(folder / "labels.csv", "a.jpg,1", "a.jpg,0")
    repro(dvc_copy, folder)
    rows = {row["source"]: row for row in manifest.read(plan).rows()}
    assert (rows["c.jpg"]["reason"], rows["a.jpg"]["Smiling"]) == (None, 0)


def test_the_painted_sample_is_made_before_it_is_listed_and_for_no_other_input(dvc_copy, tmp_path):
    repro(dvc_copy, "sample")
    assert sum(reason is None for reason in reasons(dvc_copy).values()) == 8
    repro(dvc_copy, write_input(tmp_path / "in"))
    assert set(reasons(dvc_copy)) == {"a.jpg", "b.jpg"}
    assert not any((dvc_copy / "sample").iterdir())


def test_the_networks_that_parsing_reads_are_known_by_their_bytes(tmp_path):
    network, described = tmp_path / "lite0.onnx", tmp_path / "lite0.yaml"
    for path in (network, described):
        path.write_bytes(path.suffix.encode())
    none = str(tmp_path / "none.onnx")
    config = load(settings=[f"parse.features_from=[dlib_face, {network}]", f"weights.parser={none}"])
    before = networks(config)
    assert before.keys() == {str(network), str(described), none} and before[none] is None
    for changed in (network, described):
        rewrite(changed, ".", "-")
        after = networks(config)
        assert [name for name in after if after[name] != before[name]] == [str(changed)]
        before = after
    assert networks(load()) == {}
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for files in (stages["ingest"]["outs"], stages["parse"]["deps"]):
        assert "manifests/networks.json" in files


@pytest.mark.parametrize("name", ["aligned", "manifests", "runs", "shards"])
def test_an_output_that_is_a_link_to_another_disk_is_refused_before_all_else(name, tmp_path, monkeypatch):
    for folder in ("disk", "project"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "project")
    Path(name).symlink_to(tmp_path / "disk")
    with pytest.raises(UserError, match=f"^{name} is a link to .*disk, and DVC accepts no output outside"):
        write_networks(load(), Layout.at(DEFAULT_SHARDS))
    assert list((tmp_path / "disk").iterdir()) == []


@pytest.mark.parametrize("target", ["demo", "study"])
def test_a_folder_that_is_no_repository_is_refused_before_anything_is_installed(target, tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    done = subprocess.run(["make", "-C", tmp_path, target], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert f"error: {tmp_path} is no Git repository, which DVC needs: install Git" in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["Makefile"]


def copy_project(copy: Path, packages: Sequence[str], stages: Sequence[str], settings: Sequence[str]) -> None:
    """Copy some packages of the project and some stages of its graph, with other settings, for DVC."""
    for name in packages:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".dvcignore", copy)
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    part = {"vars": ["params.yaml"], "stages": {name: graph[name] for name in stages}}
    (copy / "dvc.yaml").write_text(yaml.safe_dump(part))
    configure(copy, settings)
    dvc(copy, "init", "--no-scm", "--quiet")


def configure(project: Path, settings: Sequence[str]) -> None:
    """Write the default parameters with other settings."""
    values = load(settings=settings).model_dump(mode="json")
    (project / "params.yaml").write_text(yaml.safe_dump(values, allow_unicode=True))


def dvc(project: Path, *arguments: str) -> str:
    """The output of DVC, which succeeds."""
    with start_dvc(project, *arguments) as running:
        output, _ = running.communicate()
    assert running.returncode == 0, output
    return output


def start_dvc(project: Path, *arguments: str) -> "subprocess.Popen[str]":
    """DVC in a process group of its own; its stages call the Python of this test."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command, environment = [sys.executable, "-m", "dvc", *arguments], os.environ | {"PATH": path}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=project, env=environment, start_new_session=True, **pipes)
