"""Where a classifier looks: the maps find what was planted, and add up to the logits."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from common.config import load as load_config
from common.errors import UserError
from common.layout import Layout
from common.page.fonts import font_for
from training.data.loader import load
from training.data.sampler import sequential_batches
from training.data.samples import read_samples
from training.explain.attribution import attribution, mean_maps
from training.explain.explain import explain, faces_of_shards
from training.models.attribute_network import AttributeNetwork, attribute_loss
from training.models.blocks import to_input
from training.models.classifier import NetworkClassifier, load_classifier, save_classifier

CONFIG = load_config(settings=["network.width=8", "network.input_size=64", "network.stem=small"])
PLANTED = {"Red_Square": ((14, 14), (220, 20, 20)), "Green_Square": ((46, 44), (20, 200, 20))}
"""Centre (y, x) and colour of a square of 12 pixels, by the attribute that says that it is there."""

CELL = 16
"""Pixels per side of a feature cell of this network; nothing can be placed more exactly."""


@pytest.fixture(scope="module")
def portraits64(shards):
    """All painted portraits, uint8 (24, 3, 64, 64)."""
    faces = read_samples(shards, ("train", "val", "test"))
    images = [batch.images for batch in load(faces, sequential_batches(faces, 8), {"jpg"}, 0, CONFIG.stream)]
    small = torch.nn.functional.interpolate(torch.cat(images).float(), size=64, mode="area")
    return small.round().to(torch.uint8)


def plant(images: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Paint each square on every other face or so; return faces and labels."""
    images = images.clone()
    labels = torch.randint(0, 2, (len(images), len(PLANTED)), generator=generator)
    for column, ((y, x), colour) in enumerate(PLANTED.values()):
        chosen = labels[:, column] == 1
        images[chosen, :, y - 6 : y + 6, x - 6 : x + 6] = torch.tensor(colour, dtype=torch.uint8)[
            :, None, None
        ]
    return images, labels


def test_the_map_of_a_planted_attribute_peaks_where_it_was_planted(portraits64):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = AttributeNetwork(CONFIG.network, tuple(PLANTED))
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    model.train()
    for _ in range(30):
        images, labels = plant(portraits64, generator)
        loss = attribute_loss(model(to_input(images, 64)), labels, model.groups)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images, labels = plant(portraits64, generator)
    maps, average = mean_maps(model, [(images, labels.numpy().astype(np.int8))])
    assert average.shape == (64, 64, 3)
    for column, ((y, x), _) in enumerate(PLANTED.values()):
        difference = maps[column].difference
        peak = np.unravel_index(difference.argmax(), difference.shape)
        assert np.hypot(peak[0] - y, peak[1] - x) < CELL, (peak, (y, x))
        present, absent = maps[column].present, maps[column].absent
        assert present is not None and absent is not None
        assert present.mean() > absent.mean()
        assert sum(maps[column].counts) == len(images)


def test_attributions_add_up_to_the_logit_without_its_bias(portraits64):
    model = AttributeNetwork(CONFIG.network, ("Male", "Eyeglasses", "Goatee", "Smiling", "Big_Nose")).eval()
    images = to_input(portraits64[:4], 64)
    maps = attribution(model, images)
    bias = torch.cat([head.bias for head in model.heads.values()])[model.get_buffer("inverse")]
    with torch.no_grad():
        assert torch.allclose(maps.sum(dim=(2, 3)) + bias, model(images), atol=1e-4)


def save(path: Path, names: tuple[str, ...]) -> Path:
    model = AttributeNetwork(CONFIG.network, names)
    save_classifier(path, NetworkClassifier(attributes=names, model=model))
    return path


def explain_shards(path: Path, shards: Layout, output: Path) -> None:
    classifier = load_classifier(path)
    explain(classifier, path, faces_of_shards(classifier, shards, 5, 4, CONFIG.stream), output)


def test_every_attribute_gets_an_image_and_an_entry(shards, tmp_path):
    names = tuple(read_samples(shards, ("test",)).attribute_names)
    explain_shards(save(tmp_path / "classifier.pt", names), shards, tmp_path / "explain")
    entries = json.loads((tmp_path / "explain" / "maps.json").read_text())["attributes"]
    assert [entry["name"] for entry in entries] == list(names)
    assert {entry["name"]: entry["branch"] for entry in entries}["Eyeglasses"] == "upper"
    for entry in entries:
        height, width, _ = cv2.imread(str(tmp_path / "explain" / entry["file"])).shape
        assert (width, entry["present"] + entry["absent"]) == (3 * height, 5)
    assert (tmp_path / "explain" / "sheet.png").is_file()
    with pytest.raises(UserError, match="no test face with labels"):
        explain_shards(save(tmp_path / "classifier.pt", ("Happy",)), shards, tmp_path)


@pytest.mark.filterwarnings("error:Glyph")
def test_names_of_labels_are_no_names_of_files(shards, tmp_path, monkeypatch):
    names = ("../../escape", str(tmp_path / "absolute"), "sheet", "Bärtig/$", "n" * 300, "日本")
    faces = read_samples(shards, ("test",))
    faces = replace(faces, attribute_names=names, attributes=faces.attributes[:, : len(names)])
    monkeypatch.setattr("training.explain.explain.read_samples", lambda layout, splits: faces)
    folder = tmp_path / "deep" / "explain"
    explain_shards(save(tmp_path / "classifier.pt", names), shards, folder)
    entries = json.loads((folder / "maps.json").read_text())["attributes"]
    files = {entry["file"] for entry in entries}
    assert [entry["name"] for entry in entries] == list(names)
    assert len(files) == len(names) and "sheet.png" not in files
    written = {file for file in tmp_path.rglob("*") if file.is_file()}
    kept = {folder / name for name in (*files, "sheet.png", "maps.json")}
    assert written == kept | {tmp_path / "classifier.pt"}


@pytest.mark.parametrize("name", ["Усы", "γένι", "Bärtig", "日本", "\ue000"])
def test_names_in_any_script_are_legible(name):
    font = font_for([name])
    assert set(map(ord, font.shown(name))) <= font.characters
    assert font.shown(name) == name or ord(name[0]) > 0x3000
