"""The probe and the student."""

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
from sklearn.linear_model import LogisticRegression

from common import manifest
from common.config import Config, load
from common.dlib_face import DLIB_MEAN, DlibFace
from common.errors import UserError
from common.weights import find
from tests.commands import run_command
from training.data.loader import load as load_batches
from training.data.samples import read_samples
from training.engine.distributed import Ranks
from training.evaluate.evaluate import evaluate
from training.methods import student
from training.methods.calibration import FROM_LABELS
from training.methods.method import Context
from training.methods.probe import fit_probe, logistic_regressions
from training.methods.region_probe import fit_region_probe
from training.methods.runs import finetune
from training.models.attribute_network import AttributeNetwork
from training.models.backbone import DlibBackbone
from training.models.blocks import to_input
from training.models.classifier import load_classifier, sample_probabilities
from training.models.stored_features import read_features
from training.predict.predict import predict_stored


def configured(*settings: str) -> Config:
    return load(settings=["finetune.runs=[{labels: 1.0, steps: 1}]", "evaluate.resamples=5", *settings])


def test_the_fit_is_that_of_scikit_learn_on_the_known_labels():
    random = np.random.default_rng(0)
    features = random.normal(size=(60, 5))
    labels = (features[:, :3] + random.normal(size=(60, 3)) > 0).astype(np.int8)
    labels[:20, 1] = -1
    labels[:, 2] = 1
    strengths = (1e-2, 1.0)
    fits = list(logistic_regressions(features, labels, strengths))
    for strength, (weights, biases) in zip(strengths, fits, strict=True):
        for column in (0, 1):
            known = labels[:, column] >= 0
            model = LogisticRegression(C=strength, tol=1e-8).fit(features[known], labels[known, column])
            assert np.allclose(weights[:, column], model.coef_[0], atol=1e-3)
            assert np.isclose(biases[column], model.intercept_[0], atol=1e-3)
        assert not weights[:, 2].any() and biases[2] > 3  # one class only: a constant


def test_shards_without_features_are_probed_by_their_class_areas(shards):
    stream = configured().stream
    train, none = (read_samples(shards, (split,)).labelled() for split in ("train", "unlabelled"))
    extents = {name: extent for name, extent in train.extents.items() if name != "pooled.npy"}
    train = replace(train, extents=extents)
    probe, _ = fit_probe(train, none, stream)
    assert (probe.blocks, len(probe.mean)) == (("areas",), 6 * 6 * 19)
    areas = read_features(train, ("areas",), stream).reshape(-1, 36, 19)
    assert np.allclose(areas.sum(axis=2), 1)
    with pytest.raises(UserError, match=r"no pooled\.npy, .* parse the faces again"):
        read_features(train, ("pooled",), stream)


@pytest.mark.parametrize("method", ["probe", "region_probe", "scratch"])
def test_probes_and_classifiers_predict_the_faces_of_shards_as_the_evaluation_does(
    method, shards, tmp_path, capsys
):
    config = configured(f"finetune.methods=[{method}]", "network.width=8", "network.input_size=32")
    for _ in range(2):
        finetune(config, shards, tmp_path / "none", tmp_path / "finetune")
    assert f"{method}-100% is up to date" in capsys.readouterr().out
    evaluate(config, shards, tmp_path / "finetune", tmp_path / "evaluate")
    (run,) = json.loads((tmp_path / "finetune" / "runs.json").read_text())
    assert method == "scratch" or 0 < run["left_out_average_precision"] <= 1
    checkpoint = tmp_path / "finetune" / f"{method}-100%" / "classifier.pt"
    for output in ("faces.parquet", "faces.csv"):
        predict_stored(config, shards, checkpoint, None, tmp_path / output)
    table = pq.read_table(tmp_path / "faces.parquet")
    samples = manifest.read(shards.samples).rows()
    found = dict(zip(table["key"].to_pylist(), table["source"].to_pylist(), strict=True))
    assert found == {row["key"]: row["source"] for row in samples}
    evaluated = pq.read_table(tmp_path / "evaluate" / "predictions.parquet")
    assert evaluated["key"].to_pylist() == [row["key"] for row in samples if row["split"] == "test"]
    smiling = dict(zip(table["key"].to_pylist(), table["Smiling"].to_pylist(), strict=True))
    for key, probability in zip(evaluated["key"].to_pylist(), evaluated["Smiling"].to_pylist(), strict=True):
        assert smiling[key] == pytest.approx(probability, abs=2e-3)
    names = table.column_names[3:]
    for row in table.slice(0, 5).to_pylist():
        assert row["present"] == [name for name in names if row[name] >= 0.5]
    lines = (tmp_path / "faces.csv").read_text().splitlines()
    assert len(lines) == len(found) + 1 and lines[0].startswith('"key","source","present"')


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name either photos or"),
        (["a.jpg", "--shards", "OUT"], "name either photos or"),
        (["--shards", "OUT"], "--shards needs --output FILE"),
        (["--shards", "OUT", "--output", "a.csv", "--annotate", "seen"], "are for photos"),
        (["--shards", "OUT", "--output", "a.csv", "--align", "none"], "are for photos"),
    ],
)
def test_predict_refuses_options_that_do_not_go_together(arguments, message):
    done = run_command("training.predict", "--checkpoint", "classifier.pt", *arguments)
    assert done.returncode == 1 and message in done.stderr


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
    partly_unlabelled, monkeypatch
):
    everyone = read_samples(partly_unlabelled, ("train", "unlabelled"))
    labelled = read_samples(partly_unlabelled, ("train",)).labelled()
    labelled = labelled.take(np.arange(0, len(labelled), 2))
    context = Context(CONFIG, partly_unlabelled, Ranks(0, 1, torch.device("cpu")), "auto")
    probe, _ = fit_region_probe(labelled, everyone, CONFIG.stream, context.regions)
    expected = sample_probabilities(probe, everyone, CONFIG.stream, 64, "targets")
    assert np.allclose(student.student_targets(context, labelled), expected, atol=1e-6)
    monkeypatch.setattr(
        student, "fit_region_probe", None
    )  # one that the command has fitted is not fitted again
    context.latest["region_probe"] = tuple(labelled.keys), probe
    assert np.allclose(student.student_targets(context, labelled), expected, atol=1e-6)
    with pytest.raises(TypeError):
        student.student_targets(context, labelled.take(np.arange(2)))


def test_a_student_classifies_pictures_and_learns_from_all_train_faces(
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
