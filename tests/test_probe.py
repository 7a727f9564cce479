"""The probe: a convex fit, the same scores as a fine-tuned classifier, and any shards."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LogisticRegression

from common import manifest
from common.config import Config, load
from common.errors import UserError
from common.layout import Layout
from tests.commands import run_command
from training.data.samples import read_samples
from training.engine import checkpoint
from training.evaluate.evaluate import evaluate
from training.finetune.probe import fit
from training.finetune.runs import finetune
from training.models.classifier_file import read_classifier
from training.models.probe import read_features
from training.models.probe_file import read_probe
from training.predict.stored import predict_stored


def configured(*settings: str) -> Config:
    return load(
        settings=[
            "finetune.initial=[probe]",
            "finetune.runs=[{labels: 1.0, steps: 1}]",
            "evaluate.resamples=5",
            *settings,
        ]
    )


def test_the_fit_is_that_of_scikit_learn_on_the_known_labels() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(60, 5))
    labels = (features[:, :3] + random.normal(size=(60, 3)) > 0).astype(np.int8)
    labels[:20, 1] = -1
    labels[:, 2] = 1
    for strength, weights, biases, _ in fit(features, labels, (1e-2, 1.0)):
        for column in (0, 1):
            known = labels[:, column] >= 0
            model = LogisticRegression(C=strength, tol=1e-8).fit(features[known], labels[known, column])
            assert np.allclose(weights[:, column], model.coef_[0], atol=1e-3)
            assert np.isclose(biases[column], model.intercept_[0], atol=1e-3)
        assert not weights[:, 2].any() and biases[2] > 3  # one class only: a constant


def test_a_probe_is_scored_like_a_classifier_and_is_not_fitted_twice(
    shards: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configured()
    for _ in range(2):
        finetune(config, shards, tmp_path / "none", tmp_path / "finetune")
    assert "probe-100% is up to date" in capsys.readouterr().out
    evaluate(config, shards, tmp_path / "finetune", tmp_path / "evaluate")
    (run,) = json.loads((tmp_path / "finetune" / "runs.json").read_text())
    test = read_samples(shards, ("test",))
    assert run["val_faces"] == len(read_samples(shards, ("val",)).labelled())
    table = pq.read_table(tmp_path / "evaluate" / "predictions.parquet")
    assert table["key"].to_pylist() == list(test.keys)
    probe = read_probe(tmp_path / "finetune" / "probe-100%" / "classifier.pt")
    expected = probe.probabilities(test, config.stream)
    assert np.allclose(table["Male"], expected[:, probe.attributes.index("Male")], atol=1e-6)
    assert "probe-100%" in json.loads((tmp_path / "evaluate" / "intervals.json").read_text())


def test_shards_without_features_are_probed_by_their_class_areas(shards: Layout, tmp_path: Path) -> None:
    config = configured()
    finetune(config, shards, tmp_path / "none", tmp_path)
    probe = read_probe(tmp_path / "probe-100%" / "classifier.pt")
    assert (probe.features, len(probe.mean)) == ("areas", 6 * 6 * 19)
    samples = read_samples(shards, ("train",))
    areas = read_features(samples, "areas", config.stream).reshape(-1, 36, 19)
    assert np.allclose(areas.sum(axis=2), 1)
    with pytest.raises(UserError, match=r"no pooled\.npy; parse the faces again"):
        read_features(samples, "pooled", config.stream)


def test_a_probe_is_no_classifier_of_photos(shards: Layout, tmp_path: Path) -> None:
    finetune(configured(), shards, tmp_path / "none", tmp_path)
    with pytest.raises(UserError, match="a probe, which reads stored features"):
        read_classifier(tmp_path / "probe-100%" / "classifier.pt")


@pytest.mark.parametrize("initial", ["probe", "region_probe", "scratch"])
def test_probes_and_classifiers_predict_the_faces_of_shards_as_the_evaluation_does(
    initial: str, shards: Layout, tmp_path: Path
) -> None:
    config = configured(f"finetune.initial=[{initial}]", "network.width=8", "network.input_size=32")
    finetune(config, shards, tmp_path / "none", tmp_path / "finetune")
    evaluate(config, shards, tmp_path / "finetune", tmp_path / "evaluate")
    checkpoint = tmp_path / "finetune" / f"{initial}-100%" / "classifier.pt"
    for output in ("faces.parquet", "faces.csv"):
        predict_stored(config, shards, checkpoint, None, tmp_path / output)
    table = pq.read_table(tmp_path / "faces.parquet")
    samples = manifest.read(shards.samples).table
    sources = dict(zip(samples["key"].to_pylist(), samples["source"].to_pylist(), strict=True))
    assert dict(zip(table["key"].to_pylist(), table["source"].to_pylist(), strict=True)) == sources
    evaluated = pq.read_table(tmp_path / "evaluate" / "predictions.parquet")
    smiling = dict(zip(table["key"].to_pylist(), table["Smiling"].to_pylist(), strict=True))
    for key, probability in zip(evaluated["key"].to_pylist(), evaluated["Smiling"].to_pylist(), strict=True):
        assert smiling[key] == pytest.approx(probability, abs=2e-3)
    thresholds = json.loads((tmp_path / "evaluate" / "attributes.json").read_text())[f"{initial}-100%"]
    for row in table.slice(0, 5).to_pylist():
        assert row["present"] == [name for name in thresholds if row[name] >= thresholds[name]["threshold"]]
    lines = (tmp_path / "faces.csv").read_text().splitlines()
    assert len(lines) == len(sources) + 1 and lines[0].startswith('"key","source","present"')


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param([], "name either photos or", id="neither photos nor shards"),
        pytest.param(["a.jpg", "--shards", "OUT"], "name either photos or", id="photos and shards"),
        pytest.param(["--shards", "OUT"], "--shards needs --output FILE", id="no file for the rows"),
        pytest.param(
            ["--shards", "OUT", "--output", "a.csv", "--annotate", "seen"], "are for photos", id="annotations"
        ),
        pytest.param(
            ["--shards", "OUT", "--output", "a.csv", "--align", "none"], "are for photos", id="alignment"
        ),
    ],
)
def test_predict_refuses_options_that_do_not_go_together(arguments: list[str], message: str) -> None:
    done = run_command("training.predict", "--checkpoint", "classifier.pt", *arguments)
    assert done.returncode == 1 and message in done.stderr


def test_files_of_earlier_versions_are_read_or_refused_in_a_sentence(shards: Layout, tmp_path: Path) -> None:
    finetune(configured(), shards, tmp_path / "none", tmp_path)
    file = tmp_path / "probe-100%" / "classifier.pt"
    samples, probe = read_samples(shards, ("test",)), read_probe(file)
    content = checkpoint.load(file)
    for name, value in content["probe"].items():
        content["probe"][name] = value.tolist() if hasattr(value, "tolist") else value
    checkpoint.save(file, content)
    stream = configured().stream
    assert np.array_equal(
        read_probe(file).probabilities(samples, stream), probe.probabilities(samples, stream)
    )
    content["probe"]["features"] = "regions"
    checkpoint.save(file, content)
    with pytest.raises(UserError, match="a region probe of an earlier version; fit it again"):
        read_probe(file)
