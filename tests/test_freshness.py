"""`dvc repro` trains again after an edit of the training code, its settings or the labels, and only then."""

import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from common import manifest
from common.layout import Layout
from tests import manifests
from tests.dvc_project import configure, copy_project, dvc, start_dvc

SMALL = [
    "data.name=portraits",
    "network.width=8",
    "network.input_size=32",
    "pretrain.steps=2",
    "pretrain.batch_size=4",
    "pretrain.validate_every=null",
    "finetune.runs=[{labels: 1.0, steps: 2}]",
    "finetune.methods=[pretrained]",
    "finetune.batch_size=4",
    "trainer.loader_workers=0",
]
LOOP = "training/methods/network.py"
STEP = "        images = augment(resize_images(batch.images, size), generator)\n"


@pytest.fixture(scope="module")
def project(shards: Layout, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with finished shards and small settings, in which DVC has run both stages."""
    copy = tmp_path_factory.mktemp("project")
    assert isinstance(shards.shards, Path) and isinstance(shards.samples, Path)
    shutil.copytree(shards.shards / "portraits", copy / "shards" / "portraits")
    (copy / "manifests").mkdir()
    shutil.copy(shards.samples, copy / "manifests")
    copy_project(copy, ("common", "training"), ("pretrain", "finetune"), SMALL)
    assert "Running stage 'finetune'" in repro(copy)
    return copy


def repro(project: Path) -> str:
    return dvc(project, "repro", "finetune")


def edit(project: Path, file: str, old: str, new: str) -> None:
    text = (project / file).read_text()
    assert text.count(old) == 1
    (project / file).write_text(text.replace(old, new))


def test_an_edit_of_the_training_loop_trains_again_and_a_comment_does_not(project: Path) -> None:
    classifier = project / "runs" / "finetune" / "pretrained-100%" / "classifier.pt"
    written = classifier.stat().st_mtime_ns
    assert "Running stage" not in repro(project)

    edit(project, LOOP, STEP, f"        # The gradients of this batch.\n{STEP}")
    output = repro(project)
    assert "Running stage 'finetune'" in output
    assert "finetune: pretrained-100% is up to date" in output
    assert classifier.stat().st_mtime_ns == written

    edit(project, LOOP, STEP, "        images = augment(resize_images(batch.images, size) / 2, generator)\n")
    output = repro(project)
    assert "Running stage 'finetune'" in output
    assert "is up to date" not in output
    assert "Running stage 'pretrain'" not in output
    assert classifier.stat().st_mtime_ns > written


def test_a_comment_does_not_pre_train_again_and_an_edit_of_the_steps_does(project: Path) -> None:
    weights = project / "runs" / "pretrain" / "pretrained.safetensors"
    written = weights.stat().st_mtime_ns
    file = project / "training" / "pretrain" / "train.py"
    file.write_text(f"{file.read_text()}# A comment.\n")
    assert "pretrain: runs/pretrain is up to date" in repro(project)
    assert weights.stat().st_mtime_ns == written

    file.write_text(f"{file.read_text()}EDITED = True\n")
    assert "Running stage 'pretrain'" in repro(project)
    assert weights.stat().st_mtime_ns > written


def test_an_edit_of_code_that_a_stage_does_not_run_runs_nothing(project: Path) -> None:
    report = project / "training" / "report" / "__init__.py"
    report.write_text(f"{report.read_text()}EDITED = True\n")
    assert "Running stage" not in repro(project)


def test_a_new_label_trains_stage_2_alone(project: Path) -> None:
    weights = project / "runs" / "pretrain" / "pretrained.safetensors"
    classifier = project / "runs" / "finetune" / "pretrained-100%" / "classifier.pt"
    written = weights.stat().st_mtime_ns, classifier.stat().st_mtime_ns
    samples = manifest.read(project / "manifests" / "shards.parquet")
    labels = pa.array(np.arange(samples.table.num_rows) % 2, pa.int8())
    table = samples.table.append_column(pa.field("Freckled", pa.int8()), labels)
    names = (*samples.attributes, "Freckled")
    manifests.write_table(project / "manifests" / "shards.parquet", table, names, samples.metadata)
    assert "pretrain: runs/pretrain is up to date" in repro(project)
    assert weights.stat().st_mtime_ns == written[0]
    assert classifier.stat().st_mtime_ns > written[1]


def test_an_interrupted_run_and_then_a_changed_setting_need_no_flag(project: Path) -> None:
    configure(project, [*SMALL, "pretrain.steps=100000", "trainer.checkpoint_minutes=0.001"])
    folder = project / "runs" / "pretrain"
    with start_dvc(project, "repro", "finetune") as running:
        while not list(folder.glob("checkpoints/step-*.pt")):
            assert running.poll() is None
            time.sleep(0.1)
        os.killpg(running.pid, signal.SIGKILL)
    configure(project, [*SMALL, "pretrain.steps=3"])
    output = repro(project)
    assert "pretrain: starting anew, because" in output
    assert "(pretrain.steps: 100000 -> 3); its checkpoints are kept in runs/pretrain/checkpoints-1" in output
    assert "Running stage 'finetune'" in output
    assert list(folder.glob("checkpoints-1/*"))
