"""Predictions that were interrupted continue; a file that is no classifier is refused in a sentence."""

import numpy as np
import pytest
import torch
from PIL import Image

from common.alignment.recipe import Recipe
from common.config import load
from common.errors import UserError
from common.photo import Refused
from synthetic.dataset import paint_portrait
from tests.commands import run_command
from training.models.attribute_network import CELEBA_FILE, AttributeNetwork, read_groups
from training.models.classifier import NetworkClassifier, save_classifier
from training.predict.predictor import Face, Predictor


def classifier() -> NetworkClassifier:
    """One with random weights, of faces that were aligned already."""
    config, names = load(settings=["network.width=8", "network.input_size=32"]), ("Male", "Smiling")
    recipe = Recipe.of(config.align, config.ingest, detects=False).model_dump(mode="json")
    model, groups = AttributeNetwork(config.network, names), read_groups(CELEBA_FILE)
    return NetworkClassifier(attributes=names, metadata={"alignment": recipe}, model=model, groups=groups)


def test_an_interrupted_prediction_continues(tmp_path, monkeypatch):
    seen, real = list[int](), Predictor.predict_each

    def counted(predictor: Predictor, images: list[np.ndarray]) -> list[list[Face] | Refused]:
        seen.append(1)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return real(predictor, images)

    monkeypatch.setattr(Predictor, "predict_each", counted)
    monkeypatch.setattr("training.predict.predict.GROUP", 1)
    made = tmp_path / "made"
    photos = [made / f"{number}.png" for number in range(4)]
    save_classifier(made / "classifier.pt", classifier())
    for number, photo in enumerate(photos):
        Image.fromarray(paint_portrait(number, number + 1, 5).image).save(photo)
    folder = tmp_path / "out"
    folder.mkdir()
    arguments = ("--checkpoint", made / "classifier.pt", "--align", "none", *photos, "--output")
    done = run_command("training.predict", *arguments, "faces.csv", cwd=folder)
    assert (done.returncode, [file.name for file in folder.iterdir()]) == (130, [".faces.csv.rows"])
    assert "the same command continues" in done.stderr
    with (folder / ".faces.csv.rows").open("a") as rows:
        rows.write('["a line that was cut off')
    assert run_command("training.predict", *arguments, "faces.csv", cwd=folder).returncode == 0
    assert len(seen) == 3 + 2
    assert run_command("training.predict", *arguments, "whole.csv", cwd=folder).returncode == 0
    assert (folder / "faces.csv").read_bytes() == (folder / "whole.csv").read_bytes()
    assert sorted(file.name for file in folder.iterdir()) == ["faces.csv", "whole.csv"]
    seen[:] = [1, 1]
    done = run_command("training.predict", *arguments[:-1], cwd=folder)
    assert (done.returncode, "nothing is kept without --output" in done.stderr) == (130, True)


@pytest.mark.parametrize("content", [[], torch.zeros(3), {"kind": []}, {"kind": "network", "state": 1}])
def test_what_is_no_classifier_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "classifier.pt")
    with pytest.raises(UserError, match=r"classifier\.pt: not a c"):
        Predictor.load(tmp_path / "classifier.pt")
