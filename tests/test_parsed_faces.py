"""Classifiers that read parsed faces: photos as from shards, by the same parser or none; explanations."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from common.classes import CLASSES
from common.config import load
from common.errors import UserError
from common.parsing import find_parser as finding
from common.parsing.parser import ParserFile
from common.pipeline_config import Parse, Weights
from synthetic import write_dataset
from tests.commands import run_command
from training.data.loader import batch_of
from training.explain.attribution import contributions, mean_region_maps
from training.explain.explain import explain, faces_of_photos, faces_of_shards
from training.methods.runs import finetune
from training.models.classifier import load_classifier
from training.models.probe import Probe
from training.models.stored_features import comparable_parts
from training.predict import Predictor
from training.predict.output import face_table
from training.predict.predict import photos_in, predict, predict_stored
from training.predict.predictor import find_parser_of

METHODS = ("probe", "region_probe")
TOLERANCE = 1e-6
"""Of probabilities; the photos are aligned already, so their faces are the bytes of the shards."""


@pytest.fixture(scope="module")
def fitted(shards, tmp_path_factory):
    """The folder of a probe and a region probe, fitted on the shared shards."""
    output = tmp_path_factory.mktemp("fitted")
    runs = ["finetune.methods=[probe, region_probe]", "finetune.runs=[{labels: 1.0, steps: 1}]"]
    finetune(load(settings=runs), shards, output / "none", output)
    return output


def classifier(fitted: Path, method: str) -> Path:
    return fitted / f"{method}-100%" / "classifier.pt"


@pytest.mark.parametrize("method", METHODS)
def test_photos_have_the_probabilities_of_their_faces_in_shards(method, fitted, shards, portraits, tmp_path):
    path = classifier(fitted, method)
    predict_stored(load(), shards, path, None, tmp_path / "stored.parquet")
    stored = pq.read_table(tmp_path / "stored.parquet")
    photos = [portraits / source for source in stored["source"].to_pylist()]
    predictor = Predictor.load(path, align="none")
    rows, names = list(predict(predictor, photos_in(photos)[0], None)), predictor.classifier.attributes
    assert [Path(row["photo"]) for row in rows] == photos
    tables = face_table(rows, names), stored
    found, expected = (np.column_stack([table[name].to_numpy() for name in names]) for table in tables)
    assert np.abs(found - expected).max() < TOLERANCE
    assert len(np.unique(expected.round(3))) > len(photos)
    assert [row["present"] for row in rows] == stored["present"].to_pylist()
    for align in ("auto", "detect"):
        (face,) = Predictor.load(path, align=align)(photos[0])
        assert face.score is not None and len(face.probabilities) == 40


def test_the_command_gives_the_same_rows_with_several_processes(fitted, shards, portraits, tmp_path):
    path = classifier(fitted, "region_probe")
    photos = [portraits / source for source in pq.read_table(shards.samples)["source"].to_pylist()[:18]]
    (tmp_path / "broken.jpg").write_bytes(b"")
    photos.insert(3, tmp_path / "broken.jpg")
    flags = ("--align", "none", "--workers", 2, "--annotate", tmp_path / "seen")
    output = tmp_path / "faces.parquet"
    done = run_command("training.predict", "--checkpoint", path, *photos, *flags, "--output", output)
    assert done.returncode == 0, done.stderr
    predictor = Predictor.load(path, align="none")
    alone = face_table(list(predict(predictor, photos_in(photos)[0], None)), predictor.classifier.attributes)
    assert pq.read_table(output).equals(alone)
    assert len(list((tmp_path / "seen").glob("*.jpg"))) == 18


def test_a_classifier_says_by_which_parser_its_faces_were_parsed(fitted, shards):
    parsing = Predictor.load(classifier(fitted, "probe")).classifier.metadata["parsing"]
    found = finding.find_parser(load().parse, load().weights)
    expected = ("bisenet", found.size, found.sha256, {}, [found.backend])
    assert tuple(parsing[key] for key in ("parser", "size", "sha256", "networks", "numerics")) == expected


SAID = {"parser": "bisenet", "size": 448, "sha256": "0" * 64, "networks": {}, "file": None}
SAID |= {"numerics": ["CPU, AVX2, int8"], "features_from": []}


@pytest.mark.parametrize(
    ("numerics", "precision"),
    [
        (["CPU, AVX2, int8"], "int8"),
        (["CPU, AVX2, float32", "CPU, AVX-512, float32"], "float32"),
        (["CPU, AVX2, int8", "GPU, NVIDIA H200, bfloat16"], "auto"),
        ([], "auto"),
    ],
)
def test_the_parser_has_the_size_and_the_precision_of_the_shards(numerics, precision, monkeypatch):
    asked: list[Parse] = []

    def find(parse: Parse, weights: Weights) -> ParserFile:
        asked.append(parse)
        raise UserError("enough")

    monkeypatch.setattr(finding, "find_parser", find)
    with pytest.raises(UserError, match="enough"):
        find_parser_of({"parsing": SAID | {"numerics": numerics, "size": 512}}, load())
    assert (asked[0].parser, asked[0].size, asked[0].precision) == ("bisenet", 512, precision)


@pytest.mark.parametrize(
    ("parsing", "message"),
    [
        (None, "does not say how faces were parsed; fit it again"),
        (SAID, "but the classifier reads what the file with 0{64} computes; name that file as weights."),
        (SAID | {"networks": {"mine": "1" * 64}}, "reads features of mine; list files with these names"),
        (SAID | {"parser": "onnx", "numerics": []}, "parse.parser=onnx needs a file"),
    ],
)
def test_another_parser_is_refused(parsing, message):
    with pytest.raises(UserError, match=message):
        find_parser_of({"parsing": parsing}, load())


@pytest.fixture(scope="module", params=METHODS)
def exported(request, fitted, portraits, tmp_path_factory):
    """A classifier's file, and the folder that the command exports it to."""
    path, folder = classifier(fitted, request.param), tmp_path_factory.mktemp("exported")
    photos = sorted(portraits.rglob("*.jpg"))[:2]
    arguments = ("--checkpoint", path, "--output", folder, "--faces", *photos)
    done = run_command("training.export", *arguments)
    assert done.returncode == 0, done.stderr
    return path, folder


def test_an_exported_probe_needs_neither_pytorch_nor_the_project(exported, tmp_path):
    path, folder = exported
    write_dataset(tmp_path / "faces", count=12, seed=4, workers=1)
    photos = sorted((tmp_path / "faces").rglob("*.jpg"))
    for name in ("torch", "common", "training", "facexlib"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} must not be imported')")
    command, environment = [sys.executable, folder / "predict.py", *photos], {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    assert done.returncode == 0, done.stderr
    heads, *rows = csv.reader(done.stdout.splitlines())
    predictor = Predictor.load(path, align="none")
    assert heads == ["photo", *predictor.classifier.attributes]
    assert [row[0] for row in rows] == [str(photo) for photo in photos]
    expected = torch.tensor([[*face.probabilities.values()] for photo in photos for face in predictor(photo)])
    difference = torch.tensor([[*map(float, row[1:])] for row in rows]).logit() - expected.logit()
    assert difference.abs().max() < 1e-3


def test_an_exported_probe_is_read_back_with_its_parser(exported, portraits, tmp_path):
    path, folder = exported
    original, photo = Predictor.load(path), next(portraits.rglob("*.jpg"))
    for source in (folder, folder / "parser.onnx"):
        again = Predictor.load(source, folder / "config.json")
        assert again.classifier.identity == original.classifier.identity
        assert again.classifier.metadata["parsing"]["file"] == str(folder / "parser.onnx")
        assert again(photo)[0].probabilities == pytest.approx(original(photo)[0].probabilities, abs=1e-6)
    card = (folder / "README.md").read_text()
    assert "pooled.npy of parsed faces, which `bisenet` made at 448 pixels" in " ".join(card.split())
    assert "python predict.py aligned.png" in card
    (tmp_path / "classifier.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match="not what `python -m training.export` writes; export again"):
        Predictor.load(tmp_path)


def test_a_region_contributes_what_its_features_do_where_it_lies():
    eye, columns = CLASSES.index("l_eye"), 10 + 64 * np.arange(20)
    weights = np.zeros((10 + 19 * 64, 2))
    weights[columns[eye] : columns[eye + 1], 0] = 1  # the second attribute shows nowhere
    parts, one = comparable_parts([("pooled", 10, 64)]), np.ones(len(weights))
    probe = Probe(
        attributes=("A", "B"), blocks=("pooled",), parts=parts, mean=0 * one, scale=one, weights=weights,
        biases=np.ones(2),
    )  # fmt: skip
    pooled = np.random.default_rng(0).normal(size=(2, len(weights))).astype(np.float16)
    masks = np.zeros((2, 16, 16), np.uint8)
    masks[:, 8:] = eye
    members = {"jpg": np.zeros((2, 16, 16, 3), np.uint8), "mask.png": masks, "pooled.npy": pooled}
    batch = batch_of(members, torch.arange(2))
    values = contributions(probe, batch)
    assert np.allclose(values[:, eye, 0], probe.logits(batch)[:, 0] - 1, atol=1e-5)
    assert np.abs(values[..., 1]).max() == np.abs(np.delete(values, eye, axis=1)).max() == 0
    maps, _, shares = mean_region_maps(probe, [(batch, np.array([[1, 0], [0, 1]], np.int8))])
    assert maps[0].present is not None and np.allclose(maps[0].present[2:], values[0, eye, 0])
    assert not maps[0].present[:2].any() and (shares[0]["l_eye"], shares[1]["l_eye"]) == (1, 0)


def test_an_explanation_draws_the_regions_of_every_attribute(fitted, shards, tmp_path):
    path = classifier(fitted, "probe")
    probe = load_classifier(path)
    explain(probe, path, faces_of_shards(probe, shards, 4, 4, load().stream), tmp_path)
    entries = json.loads((tmp_path / "maps.json").read_text())["attributes"]
    assert len(entries) == 40 and all((tmp_path / entry["file"]).is_file() for entry in entries)
    shares = {entry["name"]: entry["regions"] for entry in entries}
    sums = {round(sum(each.values()), 1) for each in shares.values()}
    assert sums in ({1}, {0, 1})  # 0 of attributes that every labelled face has, or none
    assert (tmp_path / "sheet.png").is_file()


def test_an_explanation_of_photos_takes_what_is_predicted_for_the_truth(fitted, portraits, tmp_path):
    path, photos = classifier(fitted, "region_probe"), sorted(portraits.rglob("*.jpg"))[:3]
    predictor = Predictor.load(path)
    explain(predictor.classifier, path, faces_of_photos(predictor, photos, 9), tmp_path)
    present = [name for photo in photos for name in predictor(photo)[0].present]
    for entry in json.loads((tmp_path / "maps.json").read_text())["attributes"]:
        count = present.count(entry["name"])
        assert (entry["present"], entry["absent"]) == (count, 3 - count)
    (tmp_path / "broken.jpg").write_bytes(b"")
    faces = faces_of_photos(predictor, [tmp_path / "broken.jpg"], 9)
    with pytest.raises(UserError, match="no photo with a face to explain"):
        explain(predictor.classifier, path, faces, tmp_path)
