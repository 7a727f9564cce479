"""From photos to a classifier by a page in a real browser; doubtful labels, suggestions, what is unsure."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UserError
from common.page.images import image_uri
from common.page.render import render
from tests.browser import chromium, needs_chromium
from tests.commands import run_command
from training.evaluate.thresholds import Sureness
from training.fit.fit import fit_photos
from training.label import audit, page
from training.methods.region_probe import StandardisedFeatures
from training.models.classifier import load_classifier
from training.models.probe import Probe

NAMES = ("Male", "Smiling")
STATUS = "document.getElementById('status').textContent"


@pytest.fixture(scope="module")
def photos(portraits, tmp_path_factory):
    """The painted portraits alone, without any label."""
    folder = tmp_path_factory.mktemp("fit") / "photos"
    shutil.copytree(portraits / "img_align_celeba", folder)
    return folder


def fit(*arguments: object, here: bool = True) -> CompletedProcess[str]:
    """The command; its pipeline, which is a process, runs `here` without the seconds of its imports."""

    def run(command: list[str], real: Any = subprocess.run, **options: Any) -> CompletedProcess[str]:
        if "pipeline.parse" not in command:
            return real(command, **options)
        done = run_command(*command[2:])
        print(done.stdout, end="")
        print(done.stderr, end="", file=sys.stderr)
        return done

    with pytest.MonkeyPatch.context() as patch:
        if here:
            patch.setattr("subprocess.run", run)
        return run_command("training.fit", *arguments)


def table(portraits: Path) -> dict[str, dict[str, int]]:
    _, heads, *lines = (portraits / "list_attr_celeba.txt").read_text().splitlines()
    columns, rows = heads.split(), [line.split() for line in lines]
    return {row[0]: {name: int(row[1 + columns.index(name)] == "1") for name in NAMES} for row in rows}


@needs_chromium
def test_photos_without_labels_are_labelled_by_keyboard_and_become_a_classifier(photos, portraits, tmp_path):
    output, truth = tmp_path / "out", table(portraits)
    first = fit(photos, "--output", output, here=False)
    assert first.returncode == 0, first.stderr
    assert "no photo has a label" in first.stdout and not (output / "classifier.pt").exists()

    with chromium(tmp_path) as browser:
        browser.open(output / "labels.html")
        assert browser.evaluate("document.getElementById('path').textContent") in truth
        for name in NAMES:
            browser.evaluate(f"document.getElementById('new').value = '{name}'")
            browser.evaluate("document.querySelector('#add button').click()")
            for _ in range(20):
                photo = browser.evaluate("document.getElementById('path').textContent")
                browser.press("y" if truth[photo][name] else "n")
        browser.open(output / "labels.html")  # what was labelled survives this
        assert browser.evaluate(STATUS).endswith("20 labelled")
        browser.press("d")
        labels = tmp_path / "downloads" / "labels.csv"
        end = time.monotonic() + 60
        while not labels.exists() and time.monotonic() < end:
            time.sleep(0.05)
        assert browser.errors == []
    assert len(labels.read_text().splitlines()) == 21

    second = fit(photos, labels, "--output", output)
    assert second.returncode == 0, second.stderr
    assert (output / "classifier.pt").is_file()
    scores = json.loads((output / "scores.json").read_text())
    low, high = scores["means"]["accuracy_interval"]
    assert 0.5 < low <= scores["means"]["accuracy"] <= high
    again = fit(photos, labels, "--output", output)
    assert "scores are up to date" in again.stdout

    audited = run_command("training.audit", "--shards", output)
    assert audited.returncode == 0, audited.stderr
    issues = pq.read_table(output / "label_issues.parquet")
    assert issues.column_names[:3] == ["issue", "key", "source"]

    suggested = run_command("training.suggest", "--shards", output, "--count", 3)
    paths = suggested.stdout.splitlines()[:3]
    assert len(set(paths)) == 3
    assert not set(paths) & {line.split(",")[0] for line in labels.read_text().splitlines()}
    assert run_command("training.suggest", "--shards", output, "--count", 3).stdout == suggested.stdout

    image = next(photos.iterdir())
    chosen = ("--checkpoint", output / "classifier.pt", "--error", "1%", "--output", tmp_path / "faces.csv")
    predicted = run_command("training.predict", *chosen, image)
    assert predicted.returncode == 0, predicted.stderr
    assert "2 predictions are unsure" in predicted.stderr  # 20 labels cannot show that 99 % are right
    assert "Male;Smiling" in (tmp_path / "faces.csv").read_text()


@pytest.fixture
def two_photos(portraits, tmp_path):
    """A folder of two of the portraits."""
    (tmp_path / "two").mkdir()
    for name in ("000001.jpg", "000002.jpg"):
        shutil.copy(portraits / "img_align_celeba" / name, tmp_path / "two")
    return tmp_path / "two"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column of paths"),
        ("path,Male\ngone.jpg,1\n", "no row matches an image"),
        ("path,Male\n000001.jpg,1\n", "needs at least two"),
        ("path,Male\n000001.jpg,old\n", "'old' is none of 1, 0, -1"),
        (None, "labels.csv: "),
    ],
)
def test_labels_that_cannot_be_learnt_from_end_in_a_sentence(two_photos, tmp_path, text, message):
    labels = tmp_path / "labels.csv"
    labels.mkdir() if text is None else labels.write_text(text)
    done = fit(two_photos, labels, "--output", tmp_path / "out")
    assert (done.returncode, message in done.stderr, "Traceback" in done.stderr) == (1, True, False)


def test_shards_keep_their_splits_and_are_not_parsed_by_other_settings(shards, tmp_path, monkeypatch):
    commands: list[list[str]] = []

    def recorded(command: list[str], check: bool) -> CompletedProcess[str]:
        commands.append(command)
        return CompletedProcess(command, 1)

    monkeypatch.setattr("subprocess.run", recorded)
    with pytest.raises(UserError, match="parsed again; add --set 'parse.features_from=\\[]'"):
        other = ["parse.features_from=[dlib_face]"]
        fit_photos(str(shards.shards), tmp_path / "labels.csv", tmp_path / "out", (), other)
    for photos in (shards.shards, tmp_path):
        with pytest.raises(SystemExit):
            fit_photos(str(photos), tmp_path / "labels.csv", tmp_path / "out", (), ())
    assert ["ingest.test_fraction=0.0" in command for command in commands] == [False, True]


def test_where_every_face_has_a_label_suggestions_are_for_a_further_attribute(shards, tmp_path):
    page = tmp_path / "labels.html"
    done = run_command("training.suggest", "--shards", shards.shards, "--count", 5, "--output", page)
    assert done.returncode == 0, done.stderr
    assert len(set(done.stdout.splitlines()[:-1])) == 5
    assert "5 faces to label a further attribute on" in page.read_text()


def test_two_labels_and_labels_that_are_all_alike_make_a_classifier_that_claims_nothing(two_photos, tmp_path):
    output = tmp_path / "out"
    (tmp_path / "labels.csv").write_text("path,Male,Smiling\n000001.jpg,1,1\n000002.jpg,0,1\n")
    done = fit(two_photos, tmp_path / "labels.csv", "--output", output)
    assert done.returncode == 0, done.stderr
    assert "nothing is learnt of Smiling" in done.stdout
    assert "2 faces with labels, too few for scores" in done.stdout and "--error" not in done.stdout
    assert not (output / "scores.json").exists()
    with pytest.raises(UserError, match="does not know its error"):
        Sureness.of(load_classifier(output / "classifier.pt"), 0.05)


def write_batch(file: Path, names: list[str], paths: list[str], pairs: list[tuple[int, int]] | None) -> None:
    """A page of faces that share one picture."""
    image, count = image_uri(np.full((8, 8, 3), 128, np.uint8), "png"), len(names)
    face = {"image": image, "guess": [0.9] * count, "given": [0] * count}
    rows = [["old.jpg", "7", "test", 1, None], [paths[1], "", "val", 0, 1]]
    faces = [face | {"path": path} for path in paths]
    data = {"key": file.name, "attributes": names, "faces": faces, "pairs": pairs}
    data |= {"columns": ["identity", "split"], "rows": rows}
    templates = Path(page.__file__).with_name("templates")
    file.write_text(render(templates, "labels.html.j2", title="Labels", headline="<i>", lede="", data=data))


@needs_chromium
def test_names_stay_text_and_unsure_undo_and_the_order_of_a_batch_and_of_suspected_labels_are_kept(tmp_path):
    names, file = ["<script>alert(1)</script>", 'a, "b"'], tmp_path / "labels.html"
    paths = ["<img src=x onerror=alert(1)>.jpg", "b.jpg", *(f"{number}.jpg" for number in range(498))]
    write_batch(file, names, paths, None)
    with chromium(tmp_path) as browser:

        def text_of(name: str) -> str:
            return str(browser.evaluate(f"document.getElementById('{name}').textContent"))

        browser.open(file, 390)
        assert browser.evaluate("document.documentElement.scrollWidth <= 390")
        assert (text_of("path"), browser.evaluate("document.querySelectorAll('img').length")) == (paths[0], 1)
        assert "90 % sure" in text_of("guess")
        browser.press("g", "y", "u", "n", "y", "z", "ArrowLeft", "ArrowRight", "ArrowRight", "n")
        assert "sure" not in text_of("guess")
        assert text_of("status") == "6 of 1000; 4 labelled"
        assert browser.evaluate("table()").splitlines() == [
            'path,identity,split,<script>alert(1)</script>,"a, ""b"""',
            "old.jpg,7,test,1,",
            "b.jpg,,val,0,1",
            "<img src=x onerror=alert(1)>.jpg,,train,1,",
            "0.jpg,,train,0,",
        ]
        suspected = tmp_path / "suspected.html"
        write_batch(suspected, ["Male", "Young"], ["a.jpg", "b.jpg"], [(1, 1), (0, 0)])
        browser.open(suspected)
        assert (text_of("name"), "labelled no" in text_of("guess")) == ("Young?", True)
        browser.press("u", "y")
        assert text_of("status") == "2 labelled"
        rows = ["old.jpg,7,test,1,", "b.jpg,,val,0,", "a.jpg,,train,1,"]
        assert browser.evaluate("table()").splitlines()[1:] == rows
        assert browser.errors == []


def test_flipped_labels_have_the_lowest_quality_and_are_most_of_the_issues():
    random = np.random.default_rng(0)
    hidden = random.normal(size=(400, 1)) + 0.5 * random.normal(size=(400, 6))
    truth = (hidden + 0.3 * random.normal(size=hidden.shape) > 0).astype(np.int8)
    flipped = random.random(truth.shape) < 0.05
    flipped[:, 4:] = False
    labels = np.where(flipped, 1 - truth, truth).astype(np.int8)
    labels[:, 4], labels[:, 5] = 1, -1  # of one value alone, and unknown
    logits, count = 2 * (hidden + 0.5 * random.normal(size=hidden.shape)), int(flipped.sum())

    def precision(scores: np.ndarray) -> float:
        return float(flipped[:, :4].ravel()[np.argsort(scores[:, :4], axis=None)[:count]].mean())

    confidence = audit.self_confidence(logits, labels)
    assert np.isnan(confidence[:, 5]).all()
    quality = audit.label_quality(logits, labels, [None] * len(labels))
    issues = audit.contradicted(confidence, labels)
    assert precision(quality) > precision(confidence) > 0.4
    assert flipped[issues].mean() > 0.2  # a random label is flipped with 0.05
    assert not issues[:, 4:].any() and np.isfinite(quality[:, :5]).all()


def test_photos_of_one_person_that_disagree_about_what_does_not_change_are_issues():
    people = [f"{number // 4}" for number in range(80)] + [None, None]
    male = np.array([number // 4 % 2 for number in range(80)] + [0, 1], np.int8)
    smiling = np.array([number % 2 for number in range(82)], np.int8)
    male[5] = 1 - male[5]
    issues = audit.disagreeing(np.stack([male, smiling], axis=1), people)
    assert np.argwhere(issues).tolist() == [[5, 0]]


def test_no_person_is_in_two_folds_and_folds_are_alike_in_size():
    people = [str(number % 60) if number % 3 else None for number in range(300)]
    folds = audit.folds_of(people)
    pairs = {(name, fold) for name, fold in zip(people, folds.tolist(), strict=True) if name}
    assert len(pairs) == len({name for name, _ in pairs})
    assert np.ptp(np.bincount(folds)) < 10
    assert audit.folds_of(["a", "a", "b"]).max() == 1


@given(st.lists(st.sampled_from(["a", "b", None]), min_size=1), st.integers(0, 9), st.integers(1, 20))
def test_suggestions_have_nobody_twice_and_end_with_the_people(people, seed, count):
    order = page.drawn(people, seed, count)
    named = [people[face] for face in order if people[face]]
    assert len(set(order)) == len(order) and len(set(named)) == len(named)
    assert len(order) == min(count, people.count(None) + len(set(people) - {None}))
    assert page.drawn(people, seed, count) == order


def test_nearly_the_same_picture_in_two_splits_is_found_and_within_a_split_is_not():
    values = np.random.default_rng(0).normal(size=(6, 50)).astype(np.float32)
    values[3], values[5] = values[0] + 0.05, 1.1 * values[1]
    parts = (("pooled", -1, 0, 40), ("pooled", 0, 40, 50))
    features = StandardisedFeatures(values, values, values.T, ("pooled",), parts, np.zeros(50), np.ones(50))
    splits = np.array(["train", "train", "train", "test", "val", "train"])
    assert audit.near_duplicates(features, splits) == [(0, 3)]


def probe_with(logits: np.ndarray, labels: np.ndarray) -> Probe:
    none, names = np.zeros(0), tuple(str(column) for column in range(labels.shape[1]))
    probe = Probe(attributes=names, blocks=(), parts=(), mean=none, scale=none, weights=none, biases=none)
    probe.left_out = {"logits": torch.from_numpy(logits).float(), "labels": torch.from_numpy(labels)}
    return probe


@pytest.mark.parametrize("error", [0.02, 0.05, 0.2])
def test_present_and_absent_keep_the_stated_error_each_and_the_rest_is_unsure(error):
    random = np.random.default_rng(0)
    logits = random.normal([0, -2, 1], 3, size=(12000, 3))
    labels = (random.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.int8)
    labels[::7, 1] = -1
    sureness = Sureness.of(probe_with(logits[:4000], labels[:4000]), error)
    new, known = sureness.decide(1 / (1 + np.exp(-logits[4000:]))), labels[4000:] >= 0
    for kind in (0, 1):
        sure = known & (new == kind)
        assert 0.5 * error < (labels[4000:][sure] != kind).mean() < 1.25 * error
    assert ((new == -1).mean() < 0.1) == (error == 0.2)


def test_few_faces_leave_all_unsure_and_without_left_out_faces_no_error_is_known():
    logits, labels = np.array([[9.0], [-9.0]] * 8), np.array([[1], [0]] * 8, np.int8)
    probe, two = probe_with(logits, labels), np.array([[0.9999], [0.0001]])
    assert Sureness.of(probe, 0.05).decide(two).tolist() == [[-1], [-1]]
    assert Sureness.of(probe, 0.2).decide(two).tolist() == [[1], [0]]
    probe.left_out = None
    with pytest.raises(UserError, match=r"training\.fit"):
        Sureness.of(probe, 0.05)
