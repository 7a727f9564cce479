"""The student: a network of plain pictures that learns from the region probe, on faces without labels too."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from common.config import load
from common.layout import Layout
from training.data.samples import read_samples
from training.engine.distributed import Ranks
from training.engine.optim import LossCheck
from training.methods.calibration import FROM_LABELS
from training.methods.method import Context
from training.methods.region_probe import fit_region_probe
from training.methods.runs import finetune
from training.methods.student import student_targets
from training.models import build
from training.models.classifier import load_classifier
from training.models.inference import sample_probabilities
from training.models.pretrained import save_pretrained

CONFIG = load(
    settings=[
        "network.width=8",
        "network.input_size=32",
        "finetune.methods=[student]",
        "finetune.runs=[{labels: 0.5, steps: 2}]",
        "finetune.student_steps=3",
        "finetune.select=labels",
        "finetune.backbone_rate=0.0",
        "trainer.loader_workers=0",
    ]
)


@pytest.fixture
def partly_unlabelled(shards: Layout, tmp_path: Path) -> Layout:
    """The shards with every third train face in the split ``unlabelled``."""
    copy = replace(shards, manifests=tmp_path / "manifests")
    (tmp_path / "manifests").mkdir()
    table = pq.read_table(shards.samples)
    splits = [
        "unlabelled" if split == "train" and number % 3 == 0 else split
        for number, split in enumerate(table["split"].to_pylist())
    ]
    index = table.column_names.index("split")
    pq.write_table(table.set_column(index, "split", pa.array(splits)), copy.samples)
    return copy


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("pretrain") / "pretrained.safetensors"
    save_pretrained(path, build(CONFIG.network), CONFIG)
    return path


def test_targets_are_labels_where_they_are_used_and_the_region_probe_s_probabilities_elsewhere(
    partly_unlabelled: Layout,
) -> None:
    everyone = read_samples(partly_unlabelled, ("train", "unlabelled"))
    labelled = read_samples(partly_unlabelled, ("train",)).labelled()
    labelled = labelled.take(np.arange(0, len(labelled), 2))
    unknown = labelled.attributes.copy()
    unknown[0, 0] = -1
    labelled = replace(labelled, attributes=unknown)
    context = Context(CONFIG, partly_unlabelled, Ranks(0, 1, torch.device("cpu")), "auto")
    targets = student_targets(context, labelled)
    probe, _ = fit_region_probe(labelled, everyone, CONFIG.stream, context.regions)
    expected = sample_probabilities(probe, everyone, CONFIG.stream, 64, "targets")
    used = {key: row for row, key in enumerate(labelled.keys)}
    assert targets.shape == (len(everyone), len(everyone.attribute_names))
    for key, target, probabilities in zip(everyone.keys, targets, expected, strict=True):
        known = labelled.attributes[used[key]] if key in used else np.full(len(target), -1)
        assert np.allclose(target, np.where(known >= 0, known, probabilities), atol=1e-6)


def test_a_student_trains_the_whole_network_on_all_train_faces_and_is_a_classifier_of_pictures(
    partly_unlabelled: Layout, pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: set[str] = set()
    real = LossCheck.add

    def add(losses: LossCheck, loss: Tensor, step: int, indices: Tensor) -> None:
        trained.update(losses.keys[index] for index in indices.tolist())
        real(losses, loss, step, indices)

    monkeypatch.setattr(LossCheck, "add", add)
    finetune(CONFIG, partly_unlabelled, pretrained, tmp_path)
    rows = pq.read_table(partly_unlabelled.samples, columns=["key", "split"]).to_pylist()
    assert {row["split"] for row in rows if row["key"] in trained} == {"train", "unlabelled"}
    (entry,) = json.loads((tmp_path / "runs.json").read_text())
    assert (entry["name"], entry["steps"]) == ("student-50%", 3)
    classifier = load_classifier(tmp_path / "student-50%" / "classifier.pt")
    assert classifier.members == {"jpg"}
    assert classifier.thresholds is not None and classifier.thresholds_from == FROM_LABELS
    assert classifier.network is not None
    network = classifier.network.network.state_dict()
    start = load_file(pretrained)
    assert start.keys() <= network.keys()
    backbone = [name for name in start if name.startswith("stages.") and name.endswith("weight")]
    assert all(not torch.equal(network[name], start[name]) for name in backbone)
