"""Prediction on raw photos: the same faces as in the shards, every photo accounted for, no shards needed."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from common import manifest
from common.alignment.detector import detect_faces, load_detector, one_thread
from common.config import load
from common.errors import UserError
from common.layout import Layout
from common.members import decode_face
from common.photo import Refused
from common.shards import extent_of, read_member, read_shard
from common.weights import find
from pipeline.align.run import align
from pipeline.ingest.run import ingest
from synthetic.dataset import paint_portrait
from tests.commands import run_command
from training.data.provenance import provenance
from training.data.samples import read_samples
from training.engine import checkpoint
from training.engine.device import numerics
from training.methods.runs import finetune
from training.models.blocks import to_input
from training.models.classifier import load_classifier
from training.predict import Predictor
from training.predict.output import annotate, face_rows, face_table, write_table
from training.predict.predict import photos_in, predict
from training.predict.predictor import CENTRAL_SQUARE

TINY = [
    *("network.width=8", "network.stem=large", "network.input_size=32", "finetune.methods=[scratch]"),
    *("finetune.runs=[{labels: 1.0, steps: 2}]", "finetune.batch_size=4", "trainer.loader_workers=0"),
]


@pytest.fixture(scope="module")
def aligned_already(shards, tmp_path_factory):
    """A classifier that was fine-tuned on the shared shards, whose faces were not detected."""
    output = tmp_path_factory.mktemp("finetuned")
    finetune(load(settings=TINY), shards, output / "none", output)
    return next(output.glob("*/classifier.pt"))


@pytest.fixture(scope="module")
def wild(tmp_path_factory):
    """A folder with a wild portrait, the same lying on its side by EXIF, and three faces in one photo."""
    folder = tmp_path_factory.mktemp("wild") / "phötos 1"
    folder.mkdir()
    portraits = [Image.fromarray(paint_portrait(i, i + 1, 5, wild=True).image) for i in range(3)]
    portraits[0].save(folder / "alone.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    portraits[0].transpose(Image.Transpose.ROTATE_90).save(folder / "turned ü.png", exif=turned)
    widths, grey = [image.width for image in portraits], (128, 128, 128)
    group = Image.new("RGB", (sum(widths), max(image.height for image in portraits)), grey)
    for number, image in enumerate(portraits):
        group.paste(image, (sum(widths[:number]), 0))
    group.save(folder / "group.png")
    return folder


@pytest.fixture(scope="module")
def detected(aligned_already, wild, tmp_path_factory):
    """A classifier whose metadata says that faces were detected, and the pipeline's faces of these photos."""
    output = tmp_path_factory.mktemp("detected")
    config = load(settings=[f"data.input={wild}", "data.name=wild", "cluster.workers=1", "align.size=160"])
    layout = Layout.at(output)
    ingest(config, layout)
    align(config, layout)
    faces = {}
    for tar in sorted((layout.aligned / "wild").glob("*.tar")):
        for _, members in read_shard(tar):
            faces[json.loads(members["json"])["source"]] = decode_face(members["jpg"])
    state = checkpoint.load(aligned_already)
    recipe = json.loads((layout.aligned / "wild" / "recipe.json").read_text())
    state["metadata"] |= {"alignment": recipe, "landmarks": None}
    checkpoint.save(output / "classifier.pt", state)
    return output / "classifier.pt", faces


def test_the_file_of_a_classifier_says_how_its_faces_were_aligned(aligned_already, shards, pipeline_config):
    metadata = checkpoint.load(aligned_already)["metadata"]
    assert metadata["dataset"] == "portraits"
    assert sum(metadata["faces"].values()) == 24
    assert metadata["alignment"]["align"] == pipeline_config.align.model_dump(mode="json") | {"mode": "none"}
    other, samples = load(settings=["align.size=64"]), read_samples(shards, ("train",))
    # Another configuration of the training does not change how the faces were made.
    assert provenance(shards, samples, other)["alignment"] == metadata["alignment"]


@pytest.mark.parametrize("align", ["auto", "detect"])
def test_the_face_of_a_raw_photo_lies_where_the_faces_of_aligned_pictures_lay(aligned_already, wild, align):
    predictor = Predictor.load(aligned_already, align=align)
    (face,) = predictor(wild / "alone.png")
    settings = predictor.recipe.align
    with one_thread():
        detector = load_detector(settings.detector, find(settings.detector, load().weights))
        (again,) = detect_faces(face.image, detector, settings)
    expected = np.array(predictor.classifier.metadata["landmarks"])
    assert face.score is not None
    assert np.abs(again.landmarks / settings.size - expected).max() < 0.04


@pytest.mark.parametrize(
    ("align", "detail"), [("auto", CENTRAL_SQUARE), ("none", None)], ids=["with a notice", "as was asked for"]
)
def test_a_photo_without_a_face_is_its_central_square(aligned_already, align, detail):
    predictor = Predictor.load(aligned_already, align=align)
    (face,) = predictor.predict(np.full((300, 400, 3), 90, np.uint8))
    assert (face.box, face.score, face.detail) == ((50, 0, 350, 300), None, detail)
    assert face_rows(Path("x.png"), [face])[0]["detail"] == detail


def test_every_face_of_a_photo_is_seen_as_in_the_shard_and_has_a_box_and_a_rotated_photo_is_upright(
    detected, wild
):
    path, stored = detected
    predictor = Predictor.load(path)
    assert stored.keys() >= {"alone.png", "group.png"}
    for name, face in stored.items():
        assert np.array_equal(predictor(wild / name)[0].image, face), name
    image, faces = predictor.read(wild / "group.png").image, predictor(wild / "group.png")
    centres = sorted((face.box[0] + face.box[2]) / 2 / image.shape[1] for face in faces)
    assert (len(faces), centres[0] < 0.45 < centres[2]) == (3, True)
    drawn, plain = (np.asarray(annotate(image, boxes)).astype(int) for boxes in (faces, []))
    scale = plain.shape[0] / image.shape[0]
    changed = np.abs(drawn[: plain.shape[0]] - plain).max(axis=2)
    for face in faces:
        x, y = round((face.box[0] + face.box[2]) / 2 * scale), round(face.box[3] * scale) - 1
        assert changed[y - 4 : y + 5, x].max() > 30
        assert changed[round(y - 0.4 * (face.box[3] - face.box[1]) * scale), x] == 0
    upright, turned = predictor(wild / "alone.png")[0], predictor(wild / "turned ü.png")[0]
    assert np.array_equal(upright.image, turned.image) and upright.image.shape == (160, 160, 3)
    assert (upright.box, upright.probabilities) == (turned.box, turned.probabilities)


@pytest.mark.parametrize("mirrored", [False, True])
def test_an_aligned_photo_is_seen_as_in_the_shard_and_has_the_evaluation_s_probabilities_but_for_roundings(
    aligned_already, shards, portraits, mirrored
):
    predictor = Predictor.load(aligned_already, None, "none", "float32", mirrored)
    row = manifest.read(shards.samples).rows()[0]
    (face,) = predictor(portraits / row["source"])
    stored = decode_face(read_member(shards.shards, row["shard"], extent_of(row, "jpg")))
    assert np.array_equal(face.image, stored)
    assert tuple(face.probabilities) == predictor.classifier.attributes
    network = load_classifier(aligned_already).network
    inputs = to_input(torch.from_numpy(face.image).permute(2, 0, 1)[None], 32)
    with torch.inference_mode():
        logits = [network(each) for each in ((inputs, inputs.flip(-1)) if mirrored else (inputs,))]
    expected = torch.cat(logits).mean(dim=0).sigmoid().numpy()
    assert np.allclose(list(face.probabilities.values()), expected, atol=0.03)
    other = Predictor.load(aligned_already, None, "none", "float32", not mirrored)(portraits / row["source"])
    assert face.probabilities != other[0].probabilities


def test_probabilities_are_compared_with_thresholds_before_they_are_rounded(aligned_already, portraits):
    predictor, photo = Predictor.load(aligned_already, align="none"), next(portraits.rglob("*.jpg"))
    (face,) = predictor(photo)
    exact = face.probabilities
    predictor.thresholds = {name: value * (1 + 1e-9) for name, value in exact.items()}
    assert predictor(photo)[0].present == []
    predictor.thresholds = dict(exact)
    assert predictor(photo)[0].present == list(exact)
    (row,) = face_rows(photo, [replace(face, probabilities=dict.fromkeys(exact, 1.23456789e-9))])
    assert row["Male"] == 1.23457e-9


def test_the_network_alone_computes_in_fewer_bits_and_the_command_says_which(
    aligned_already, portraits, tmp_path
):
    photo = next(portraits.rglob("*.jpg"))
    exact, short = (
        list(Predictor.load(aligned_already, None, "none", precision)(photo)[0].probabilities.values())
        for precision in ("float32", "bfloat16")
    )
    assert exact != short
    assert np.allclose(exact, short, atol=0.02)
    flags = ("--checkpoint", aligned_already, "--align", "none")
    done = run_command("training.predict", *flags, photo, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"predict: {numerics('auto')}, 1 x " in done.stderr
    assert "predict:" not in done.stdout


def test_bad_files_are_rows_with_reasons_and_stop_nothing(detected, wild, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3)).astype(np.uint8)
    photos, good, long = tmp_path / "in", (wild / "alone.png").read_bytes(), "n" * 240 + ".png"
    (photos / "deep").mkdir(parents=True)
    (photos / "folder.jpg").mkdir()
    Image.fromarray(noise).save(photos / "deep" / "nobody.png")
    contents = {"good.png": good, long: good, "cut.png": good[:3000], "empty.jpg": b"", ".hidden.png": b""}
    for name, data in {**contents, "notes.txt": b"a sentence, not a picture"}.items():
        (photos / name).write_bytes(data)
    for name in ("video.mp4", "video.jpg"):
        with (photos / name).open("wb") as stream:
            stream.truncate(40 << 30)
    flags = (photos, tmp_path / "gone.png", "--output", "faces.json", "--annotate", "seen")
    done = run_command("training.predict", "--checkpoint", detected[0], *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "faces.json").read_text())
    refused = {"nobody.png": "no-face", "cut.png": "truncated", "empty.jpg": "empty", "good.png": None}
    refused |= {long: None, "gone.png": "unreadable", "video.jpg": "too-large"}
    assert {Path(row["photo"]).name: row["reason"] for row in rows} == refused
    assert len(list((tmp_path / "seen").rglob("*.jpg"))) == 2
    assert "2 faces in 2 photos, 5 photos without" in done.stderr
    assert "2 files are no photos: " in done.stderr and ".txt (1)" in done.stderr
    with pytest.raises(Refused, match="no-face"):
        Predictor.load(detected[0])(photos / "deep" / "nobody.png")


def test_it_works_where_there_are_no_shards_and_all_formats_say_the_same(detected, wild, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"")
    predictor = Predictor.load(detected[0])
    flags = ("--checkpoint", detected[0], "--output", "a.csv", "--annotate", "seen")
    done = run_command("training.predict", *flags, wild, "broken.jpg", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = list(predict(predictor, photos_in([wild, Path("broken.jpg")])[0], None))
    for name in ("a.json", "a.parquet"):
        write_table(tmp_path / name, face_table(rows, predictor.classifier.attributes))
    from_json = json.loads((tmp_path / "a.json").read_text())
    assert from_json == pq.read_table(tmp_path / "a.parquet").to_pylist()
    table = list(csv.DictReader(io.StringIO((tmp_path / "a.csv").read_text(encoding="utf-8"))))
    assert [row["photo"] for row in table] == [row["photo"] for row in from_json]
    assert len(table) == 3 + 1 + 1 + 1
    for written, row in zip(table, from_json, strict=True):
        if row["reason"] is None:
            assert float(written["Male"]) == pytest.approx(row["Male"], abs=2e-5)
            assert written["present"].split(";") == row["present"] or not row["present"]
            assert float(written["left"]) == row["left"]
    seen = {file.name for file in (tmp_path / "seen").rglob("*.jpg")}
    assert seen == {"alone.png.jpg", "group.png.jpg", "turned ü.png.jpg"}


def test_annotated_pictures_inside_the_input_are_not_predicted_again(aligned_already, wild, tmp_path):
    photos = tmp_path / "in"
    photos.mkdir()
    (photos / "alone.png").write_bytes((wild / "alone.png").read_bytes())
    arguments = ("--checkpoint", aligned_already, "--align", "none", photos, "--annotate", photos / "seen")
    assert "1 faces in 1 photos" in run_command("training.predict", *arguments, cwd=tmp_path).stderr
    done = run_command("training.predict", *arguments, cwd=tmp_path)
    assert "1 faces in 1 photos" in done.stderr
    assert "1 files are no photos: this project's output (1)" in done.stderr
    done = run_command("training.predict", *arguments[:-1], photos, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "name a new folder with --annotate" in done.stderr


def test_an_attribute_is_present_at_a_half_or_more_unless_a_file_has_thresholds(aligned_already, tmp_path):
    first = Predictor.load(aligned_already)
    assert set(first.thresholds.values()) == {0.5}
    content = {"renamed": {"classifier": first.classifier.identity, "thresholds": {"Male": 0.25}}}
    (tmp_path / "thresholds.json").write_text(json.dumps(content))
    thresholds = Predictor.load(aligned_already, tmp_path / "thresholds.json").thresholds
    assert (thresholds["Male"], thresholds["Young"]) == (0.25, 0.5)
    (tmp_path / "config.json").write_text('{"attributes": [{"name": "Young", "threshold": 0.75}]}')
    assert Predictor.load(aligned_already, tmp_path / "config.json").thresholds["Young"] == 0.75
    with pytest.raises(UserError, match="gone.json"):
        Predictor.load(aligned_already, tmp_path / "gone.json")


def test_what_cannot_be_done_is_said_in_one_line(aligned_already, tmp_path):
    for flags, message in ((("--output", "faces.xls"), ".csv, .json, .parquet"), ((), "")):
        flags = ("--checkpoint", aligned_already, *flags)
        done = run_command("training.predict", *flags, tmp_path, cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert message in done.stderr
    state = checkpoint.load(aligned_already)
    del state["metadata"]["alignment"]
    checkpoint.save(tmp_path / "old.pt", state)
    with pytest.raises(UserError, match="does not say how faces were aligned"):
        Predictor.load(tmp_path / "old.pt")
