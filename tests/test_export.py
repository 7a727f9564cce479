"""Exported classifiers: the same probabilities in every runtime for any batch; the card."""

import json
import re
import shutil

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image

from common.alignment.recipe import Recipe
from common.config import load
from common.errors import UserError
from synthetic.dataset import paint_portrait
from tests.commands import run_command
from training.export.model_card import model_card, read_results
from training.models.attribute_network import AttributeNetwork
from training.models.classifier import NetworkClassifier, load_classifier, save_classifier
from training.predict.predictor import Predictor

ATTRIBUTES = ("Male", "Smiling", "Wearing_Hat", "<script>alert(1)</script> | [link](x)")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A folder with runs of a classifier with random weights, their evaluation, and photos; no shards."""
    folder = tmp_path_factory.mktemp("export")
    run = folder / "runs" / "finetune" / "pretrained-5%"
    config = load(settings=["network.width=8", "network.input_size=32"])
    torch.manual_seed(0)
    metadata = {
        "title": "pre-trained",
        "dataset": "painted | set",
        "faces": {"train": 14, "test": 8},
        "alignment": Recipe.of(config.align, config.ingest, detects=False).model_dump(mode="json"),
        "code": "a test",
    }
    model = AttributeNetwork(config.network, ATTRIBUTES)
    classifier = NetworkClassifier(attributes=ATTRIBUTES, metadata=metadata, model=model)
    save_classifier(run / "classifier.pt", classifier)
    entry = {"name": run.name, "title": "pre-trained", "labels": 0.05, "faces": 7, "steps": 80}
    (run.parent / "runs.json").write_text(json.dumps([entry]))
    scores = {"accuracy": 0.9123, "balanced_accuracy": 0.8123}
    interval = {"threshold": 0.25, **scores, "accuracy_interval": [0.8771, 0.9432]}
    gap = {"yes": {"faces": 3, **scores}, "no": {"faces": 5, **scores}}
    gap["difference"] = {"accuracy": 0.0321, "accuracy_interval": [-0.0111, 0.0777]}
    thresholds = {"classifier": classifier.identity, "thresholds": dict.fromkeys(ATTRIBUTES, 0.25)}
    nothing: dict[str, object] = {"means": {}, "gains": {}, "gaps": {}, "reliability": []}
    uncertain = {**nothing, "means": {"accuracy": [0.9011, 0.9233]}, "gaps": {"Male": gap}}
    evaluation = {
        "metrics.json": {"majority class": {"accuracy": 0.8012}, run.name: {"faces": 7, **scores}},
        "attributes.json": {run.name: dict.fromkeys(ATTRIBUTES, interval), "majority class": {}},
        "thresholds.json": {run.name: thresholds},
        "intervals.json": {run.name: uncertain, "majority class": nothing},
    }
    (folder / "runs" / "evaluate").mkdir()
    for name, content in evaluation.items():
        (folder / "runs" / "evaluate" / name).write_text(json.dumps(content))
    (folder / "photos").mkdir()
    for index in range(3):
        Image.fromarray(paint_portrait(index, index + 1, 5).image).save(folder / "photos" / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def exported(workspace):
    """What the command makes of it, run in that folder."""
    source = ("--checkpoint", "runs/finetune/pretrained-5%/classifier.pt", "--faces", "photos")
    flags = (*source, "--thresholds", "runs/evaluate/thresholds.json", "--hub-folder", "exported")
    done = run_command("training.export", *flags, cwd=workspace)
    assert done.returncode == 0, done.stderr
    assert "classifier.onnx" in done.stdout
    return workspace / "exported"


@pytest.mark.parametrize("batch", [1, 3, 5])
def test_all_forms_give_the_probabilities_of_prediction_for_any_batch(workspace, exported, batch):
    classifier = workspace / "runs" / "finetune" / "pretrained-5%" / "classifier.pt"
    predictor = Predictor.load(classifier, precision="float32")
    predicted = [predictor(photo)[0] for photo in sorted((workspace / "photos").iterdir())]
    faces = np.resize(np.stack([face.image for face in predicted]), (batch, 256, 256, 3))
    wanted = np.resize([list(face.probabilities.values()) for face in predicted], (batch, len(ATTRIBUTES)))
    session = onnxruntime.InferenceSession(str(exported / "classifier.onnx"))
    graph = torch.export.load(exported / "classifier.pt2").module()
    with torch.inference_mode():
        by_torch = graph(torch.from_numpy(faces)).numpy()
    (by_onnx,) = session.run(None, {"faces": faces})
    assert by_onnx.shape == by_torch.shape == (batch, len(ATTRIBUTES))
    assert np.abs(by_onnx - wanted).max() < 1e-4
    assert np.abs(by_torch - wanted).max() < 1e-4
    assert len(np.unique(wanted.round(5))) > len(ATTRIBUTES) or batch == 1


def test_the_onnx_file_alone_is_a_classifier_again(workspace, exported, tmp_path):
    original = Predictor.load(workspace / "runs" / "finetune" / "pretrained-5%" / "classifier.pt")
    shutil.copy(exported / "classifier.onnx", tmp_path / "model.onnx")
    photo = workspace / "photos" / "0.png"
    for path in (tmp_path / "model.onnx", exported):
        again = Predictor.load(path)
        assert again.classifier.identity == original.classifier.identity
        assert again(photo)[0].probabilities == pytest.approx(original(photo)[0].probabilities, abs=5e-3)
    (tmp_path / "other.onnx").write_bytes(b"no graph")
    with pytest.raises(UserError, match="not what `python -m training.export` writes; export again"):
        Predictor.load(tmp_path / "other.onnx")


def test_the_model_card_has_the_figures_and_the_description_the_thresholds_and_the_alignment(exported):
    labels = json.loads((exported / "config.json").read_text())
    found = [(label["name"], label["threshold"]) for label in labels["attributes"]]
    assert found == [(name, 0.25) for name in ATTRIBUTES]
    assert labels["alignment"]["align"]["mode"] == "none"
    assert labels["input"]["shape"] == ["batch", 256, 256, 3]
    text = (exported / "README.md").read_text()
    assert ModelCard(text).data.to_dict()["license"] == "other"
    _, front, body = text.split("---\n", 2)
    body = re.sub(" +", " ", body)
    (index,) = yaml.safe_load(front)["model-index"]
    assert {"type": "accuracy", "value": 0.9123} in index["results"][0]["metrics"]
    for text in (
        "91.2 (90.1 to 92.3)",  # mean and its interval
        "91.2 (87.7 to 94.3)",  # of an attribute
        "| \\<script\\>alert(1)\\</script\\> \\| \\[link\\](x) | 0.250 |",
        "trained on painted \\| set",
        "| majority class | 80.1 |",
        "| Male: yes minus no | | 3.2 (-1.1 to 7.8) |",
        "Labels of 7 faces were used\n(0.05 of the labelled train faces);",
        "central square",
        "`training.predict` detects the faces of other photos and warps them by the",
        "## Not intended",
    ):
        assert text in body, text


def test_scores_and_thresholds_of_another_classifier_are_not_used(workspace, tmp_path, capsys):
    shutil.copytree(workspace / "runs", tmp_path / "runs")
    path = tmp_path / "runs" / "finetune" / "pretrained-5%" / "classifier.pt"
    classifier = load_classifier(path)
    with torch.no_grad():
        next(classifier.model.parameters()).add_(0.1)  # fine-tuned again, but not evaluated
    save_classifier(path, classifier)
    again = Predictor.load(path)
    results = read_results(tmp_path / "runs" / "evaluate", path, again.classifier)
    assert "evaluate/thresholds.json: of other classifiers" in capsys.readouterr().err
    assert results["training"] and not results["scores"]
    card = model_card(again, results, [("file",), ("x",)], 1, "other")
    assert "91.2" not in card and "Not evaluated" in card
    with pytest.raises(UserError, match="not the thresholds of this classifier"):
        Predictor.load(path, tmp_path / "runs" / "evaluate" / "thresholds.json")
