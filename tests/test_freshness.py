"""What makes a result stale: the hash of the code, settings, labels, through DVC and without."""

import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from common import manifest
from common.config import load
from common.freshness import ROOT, code_hash, imported_modules
from common.hardware import hardware
from tests import manifests
from tests.dvc_project import configure, copy_project, dvc, start_dvc
from training.engine.distributed import Ranks
from training.methods.method import Context
from training.methods.runs import METHODS, labelled_faces, made_from

FILES = {
    "app/__init__.py": "",
    "app/store/__init__.py": "",
    "app/store/schema.py": '"""The schema."""\nYEAR = 1990\n"""Of the release."""\n',
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


def edited(project: Path, name: str, text: str, tmp_path: Path) -> str:
    """The hash of app.main in a copy of the project in which one file holds another text."""
    copy = tmp_path / "copies" / str(len(list(tmp_path.glob("copies/*"))))
    shutil.copytree(project / "app", copy / "app")
    (copy / name).write_text(text)
    return code_hash("app.main", copy)


def test_the_walk_follows_imports_in_functions_and_relative_ones_to_packages_and_data(project):
    assert [file.as_posix() for file in imported_modules("app.main", project)] == MAIN
    assert [file.as_posix() for file in imported_modules("app.timing", project)] == [
        "app/__init__.py",
        "app/timing.py",
    ]


WORKER = 'def work():\n    """Work."""\n    import app.timing\n    from app.main import YEAR\n'


@pytest.mark.parametrize(
    ("name", "text", "same"),
    [
        ("app/worker.py", WORKER, True),
        ("app/timing.py", "# Measures time.\nimport json, \\\n    numpy\n", True),
        ("app/store/schema.py", 'YEAR = 1990\n"""Of the first release."""\n', True),
        ("app/store/notes.md", "Done.\n", True),
        ("app/other.py", "import app.timing\n", True),
        ("app/store/schema.py", "YEAR = 1991\n", False),
        ("app/timing.py", "import numpy, json\n", False),
        ("app/store/labels.yaml", "colour: white\n", False),
        ("app/store/templates/label.html.j2", "<i>{{ colour }}</i>\n", False),
        ("app/store/__init__.py", "import sys\n", False),
        ("app/store/more.json", "{}\n", False),
    ],
)
def test_code_and_data_change_the_hash_and_remarks_and_formatting_do_not(project, tmp_path, name, text, same):
    assert (edited(project, name, text, tmp_path) == code_hash("app.main", project)) == same


def test_a_string_that_is_a_value_counts(project, tmp_path):
    texts = (f"def now():\n    return {text!r}\n" for text in "ab")
    assert len({edited(project, "app/timing.py", text, tmp_path) for text in texts}) == 2


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
    assert {name for name in METHODS if before[name] != after[name]} == stale


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
