"""From photos without labels to a classifier, its audit and suggestions, by a page in a real browser."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from common.errors import UserError
from common.page.images import image_uri
from common.page.render import render
from tests.browser import chromium, needs_chromium
from tests.commands import run_command
from training.evaluate.unsure import Sureness
from training.fit.fit import fit_photos
from training.label import page
from training.models.classifier import load_classifier

TEMPLATES = Path(page.__file__).with_name("templates")
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


def table(portraits: Path, names: tuple[str, ...] = NAMES) -> dict[str, dict[str, int]]:
    lines = (portraits / "list_attr_celeba.txt").read_text().splitlines()
    columns = lines[1].split()
    rows = [line.split() for line in lines[2:]]
    return {row[0]: {name: int(row[1 + columns.index(name)] == "1") for name in names} for row in rows}


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
        for _ in range(100):
            if labels.exists():
                break
            browser.evaluate("new Promise(done => setTimeout(done, 50))")
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column of paths"),
        ("path,Male\ngone.jpg,1\n", "no row matches an image"),
        ("path,Male\n000001.jpg,1\n", "needs at least two"),
        ("path,Male\n000001.jpg,old\n", "'old' is none of 1, 0, -1"),
    ],
)
def test_labels_that_cannot_be_learnt_from_end_in_a_sentence(portraits, tmp_path, text, message):
    photos, output = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for name in ("000001.jpg", "000002.jpg"):
        shutil.copy(portraits / "img_align_celeba" / name, photos)
    (tmp_path / "labels.csv").write_text(text)
    done = fit(photos, tmp_path / "labels.csv", "--output", output)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


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


def test_labels_that_may_not_be_read_end_in_a_sentence(portraits, tmp_path):
    labels = tmp_path / "labels.csv"
    labels.mkdir() if os.geteuid() == 0 else labels.touch(0)  # root may read all files
    chosen = ("--input", portraits, "--labels", labels, "--output", tmp_path / "out")
    done = run_command("pipeline.ingest", *chosen)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: {labels}: ")


def test_two_labels_and_labels_that_are_all_alike_make_a_classifier_that_claims_nothing(portraits, tmp_path):
    photos, output = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for name in ("000001.jpg", "000002.jpg"):
        shutil.copy(portraits / "img_align_celeba" / name, photos)
    (tmp_path / "labels.csv").write_text("path,Male,Smiling\n000001.jpg,1,1\n000002.jpg,0,1\n")
    done = fit(photos, tmp_path / "labels.csv", "--output", output)
    assert done.returncode == 0, done.stderr
    assert "nothing is learnt of Smiling" in done.stdout
    assert "2 faces with labels, too few for scores" in done.stdout and "--error" not in done.stdout
    assert (output / "classifier.pt").is_file() and not (output / "scores.json").exists()
    with pytest.raises(UserError, match="does not know its error"):
        Sureness.of(load_classifier(output / "classifier.pt"), 0.05)


def write_batch(
    file: Path, names: list[str], paths: list[str], pairs: list[tuple[int, int]] | None = None
) -> None:
    """A page of faces that share one picture."""
    image = image_uri(np.full((8, 8, 3), 128, np.uint8), "png")
    faces = [
        {"path": path, "image": image, "guess": [0.9] * len(names), "given": [0] * len(names)}
        for path in paths
    ]
    data = {"key": "k", "attributes": names, "faces": faces, "pairs": pairs}
    data |= {
        "columns": ["identity", "split"],
        "rows": [["old.jpg", "7", "test", 1, None], [paths[1], "", "val", 0, 1]],
    }
    page = render(TEMPLATES, "labels.html.j2", title="Labels", headline="<i>", lede="", data=data)
    file.write_text(page)


@needs_chromium
def test_names_stay_text_and_unsure_undo_and_order_of_a_batch_of_500_faces_are_kept(tmp_path):
    names = ["<script>alert(1)</script>", 'a, "b"']
    paths = ["<img src=x onerror=alert(1)>.jpg", "b.jpg", *(f"{number}.jpg" for number in range(498))]
    write_batch(tmp_path / "labels.html", names, paths)
    with chromium(tmp_path) as browser:
        browser.open(tmp_path / "labels.html", 390)
        assert browser.evaluate("document.documentElement.scrollWidth <= 390")
        assert browser.evaluate("document.getElementById('path').textContent") == paths[0]
        assert browser.evaluate("document.querySelectorAll('img').length") == 1
        assert "90 % sure" in browser.evaluate("document.getElementById('guess').textContent")
        browser.press("g", "y", "u", "n", "y", "z", "ArrowLeft", "ArrowRight", "ArrowRight", "n")
        assert "sure" not in browser.evaluate("document.getElementById('guess').textContent")
        assert browser.evaluate(STATUS) == "6 of 1000; 4 labelled"
        csv = browser.evaluate("table()")
        assert browser.errors == []
    assert csv.splitlines() == [
        'path,identity,split,<script>alert(1)</script>,"a, ""b"""',
        "old.jpg,7,test,1,",
        "b.jpg,,val,0,1",
        "<img src=x onerror=alert(1)>.jpg,,train,1,",
        "0.jpg,,train,0,",
    ]


@needs_chromium
def test_suspected_labels_come_in_their_order_with_the_label_that_they_have(tmp_path):
    write_batch(tmp_path / "labels.html", ["Male", "Young"], ["a.jpg", "b.jpg"], [(1, 1), (0, 0)])
    with chromium(tmp_path) as browser:
        browser.open(tmp_path / "labels.html")
        assert browser.evaluate("document.getElementById('name').textContent") == "Young?"
        assert "labelled no" in browser.evaluate("document.getElementById('guess').textContent")
        browser.press("u", "y")
        assert browser.evaluate(STATUS) == "2 labelled"
        assert browser.evaluate("table()").splitlines()[1:] == [
            "old.jpg,7,test,1,",
            "b.jpg,,val,0,",
            "a.jpg,,train,1,",
        ]
