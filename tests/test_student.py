"""The student: a network of plain pictures that learns from the region probe, on faces without labels too."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import logit

from common.config import load
from common.dlib_face import DLIB_MEAN, DlibFace
from common.weights import find
from training.data.loader import load as load_batches
from training.data.samples import read_samples
from training.data.transforms import to_input
from training.engine.distributed import Ranks
from training.methods import student
from training.methods.calibration import FROM_LABELS
from training.methods.method import Context
from training.methods.region_probe import fit_region_probe
from training.methods.runs import finetune
from training.models.attribute_network import AttributeNetwork
from training.models.backbone import DlibBackbone
from training.models.classifier import load_classifier
from training.models.inference import sample_probabilities

CONFIG = load(
    settings=[
        *("network.input_size=32", "finetune.methods=[student]", "finetune.runs=[{labels: 0.5, steps: 2}]"),
        *("finetune.select=labels", "trainer.precision=float32", "trainer.loader_workers=0"),
    ]
)


@pytest.fixture
def partly_unlabelled(shards, tmp_path):
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


def test_targets_are_the_probabilities_of_a_region_probe_of_the_labelled_faces(
    partly_unlabelled,
):
    everyone = read_samples(partly_unlabelled, ("train", "unlabelled"))
    labelled = read_samples(partly_unlabelled, ("train",)).labelled()
    labelled = labelled.take(np.arange(0, len(labelled), 2))
    context = Context(CONFIG, partly_unlabelled, Ranks(0, 1, torch.device("cpu")), "auto")
    probe, _ = fit_region_probe(labelled, everyone, CONFIG.stream, context.regions)
    expected = sample_probabilities(probe, everyone, CONFIG.stream, 64, "targets")
    assert np.allclose(student.student_targets(context, labelled), expected, atol=1e-6)


def test_a_student_is_a_classifier_of_pictures_that_learns_from_all_train_faces(
    partly_unlabelled, tmp_path, monkeypatch
):
    learnt: dict[str, Any] = {}
    real = student.solve_heads

    def solve_heads(context: Context, model: AttributeNetwork, targets: NDArray[np.float32]) -> float:
        learnt.update(faces=context.all_faces, targets=targets)
        return real(context, model, targets)

    monkeypatch.setattr(student, "solve_heads", solve_heads)
    finetune(CONFIG, partly_unlabelled, tmp_path / "no stage 1", tmp_path)
    (entry,) = json.loads((tmp_path / "runs.json").read_text())
    assert (entry["name"], entry["steps"], entry["pretrained"]) == ("student-50%", 0, False)
    classifier = load_classifier(tmp_path / "student-50%" / "classifier.pt")
    assert classifier.members == {"jpg"}
    assert classifier.thresholds is not None and classifier.thresholds_from == FROM_LABELS
    faces, targets = learnt["faces"], learnt["targets"]
    everyone = read_samples(partly_unlabelled, ("train", "unlabelled"))
    assert list(faces.keys) == list(everyone.keys)
    (batch,) = load_batches(faces, [list(range(len(faces)))], {"jpg"}, 0, CONFIG.stream)
    with torch.inference_mode():
        inputs = to_input(batch.images, classifier.network.config.input_size)
        pooled = classifier.network.network(inputs).backbone.mean(dim=(2, 3)).double().numpy()
    deviation = pooled.std(axis=0)
    standardised = (pooled - pooled.mean(axis=0)) / np.where(deviation > 1e-4, deviation, np.inf)
    kernel = standardised @ standardised.T / DlibBackbone.channels
    wanted = logit(targets.clip(student.LEAST, 1 - student.LEAST).astype(float))
    centre = wanted.mean(axis=0)
    expected = kernel @ np.linalg.solve(kernel + student.PENALTY * np.eye(len(faces)), wanted - centre)
    assert np.allclose(classifier.logits(batch), expected + centre, atol=1e-2)


def test_the_student_s_network_is_the_one_that_gives_the_shards_their_features():
    archive = find("dlib_face", CONFIG.weights)
    ours, theirs = DlibBackbone(), DlibFace(archive)
    ours.load(archive)
    faces = torch.randint(0, 256, (2, 3, 200, 200), generator=torch.Generator().manual_seed(0)).float()
    with torch.inference_mode():
        features = ours(to_input(faces, 200))
        pixels = faces / 255 - torch.tensor(DLIB_MEAN)[:, None, None]
        stride8 = theirs(pixels)[2]
    assert features.shape == (2, DlibBackbone.channels, 6, 6) and stride8.shape == (2, 64, 24, 24)
    pooled = features.mean(dim=(2, 3))
    assert torch.allclose(pooled[:, 32:96], stride8.mean(dim=(2, 3)), atol=1e-4)
    lower_right = pooled[:, 25 * 96 + 32 : 26 * 96]
    assert torch.allclose(lower_right, stride8[..., 16:, 16:].mean(dim=(2, 3)), atol=1e-4)
