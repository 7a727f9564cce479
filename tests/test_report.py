"""The result page: its numbers, what it does without labels, escaping, and a real browser."""

import json
import re
from collections.abc import Mapping
from html import unescape
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from torch import nn

from common import manifest
from common.cell_counts import cell_class_counts
from common.config import load
from common.errors import UserError
from common.freshness import git_commit
from common.layout import Layout
from common.members import encode_array, encode_face, encode_mask, encode_metadata
from common.page.figures import SERIES, figure
from common.shards import ShardWriter
from tests import manifests
from tests.browser import check_page, needs_chromium
from training.data.samples import manifest_hash
from training.evaluate.metrics import METRICS
from training.evaluate.scoring import MAJORITY
from training.models.pretrained import save_pretrained
from training.report import diagnostics
from training.report.page import report

CONFIG = load()
HOSTILE = "<script>alert(1)</script> & \"Hat\" 'n' co"
TITLES = {"scratch": "from scratch", "pretrained": "pre-trained"}
SIZES = {"train": 40, "val": 8, "test": 24}


def write_shards(folder: Path, attributes: tuple[str, ...], dataset: str = "toy") -> Layout:
    """Random faces in three shards; label columns alternate with different periods."""
    layout, random = Layout.at(folder), np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for split, count in SIZES.items():
        shard = f"toy/{split}-000000.tar"
        with ShardWriter(layout.shards / shard) as writer:
            for number in range(count):
                face = random.integers(0, 256, (48, 48, 3), dtype=np.uint8)
                mask = random.integers(0, 18, (6, 6), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
                members = {"jpg": encode_face(face), "mask.png": encode_mask(mask)}
                members["json"] = encode_metadata({"parser": "bisenet", "parser_size": 448})
                members["parts.npy"] = encode_array(cell_class_counts(mask, 12))
                extents = writer.add(key := f"{split}{number:03d}", members)
                row = {"key": key, "shard": shard, "split": split, "status": "ok", "source": f"{key}.jpg"}
                for name, extent in extents.items():
                    row |= {f"{name}.offset": extent.offset, f"{name}.size": extent.size}
                labels = {name: int(number % (2 + i) == 0) for i, name in enumerate(attributes)}
                rows.append({**row, **labels})
    metadata = {"dataset": dataset}
    manifests.write(layout.samples, manifest.SAMPLE_FIELDS, rows, attributes, metadata)
    sources = [{"source": row["source"]} for row in rows]
    manifests.write(layout.source, manifest.SOURCE_FIELDS, sources, (), {**metadata, "root": "photos"})
    return layout


def write_pretraining(output: Path) -> None:
    """Two tasks that the page cannot know by name, one of which has no metric; a file is cut off."""
    folder = output / "pretrain" / "dvclive" / "plots" / "metrics" / "pretrain"
    for name in ("loss", "puzzle/position_loss", "puzzle/share_right", "critic/loss"):
        lines = [f"{step}\t{1 / (1 + step)}" for step in range(0, 50, 10)]
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.tsv").write_text("\n".join([f"step\t{name}", *lines]) + "\nbroken")
    right = {"name": "share_right", "title": "solved <i>", "chance": 0.125, "higher_is_better": True}
    puzzle = {"name": "puzzle", "abbreviation": "PZT", "title": "Patch puzzle", "weight": 1.0}
    critic = {"name": "critic", "abbreviation": "CRT", "title": "Critic", "weight": 0.5}
    metrics = {"samples": 40, "steps": 50, "seconds": 125.0, "waiting": 0.02}
    metrics |= {"train": {"loss": 0.1, "puzzle/share_right": 0.71}, "val": {"puzzle/share_right": 0.64}}
    metrics |= {"tasks": [{**puzzle, "metrics": [right]}, {**critic, "metrics": []}]}
    (output / "pretrain" / "metrics.json").write_text(json.dumps(metrics))


def intervals_of(value: float | None, trained: bool, good: bool) -> dict[str, Any]:
    """What ``intervals.json`` says of one run: a gain that is clear if `good`, and a gap by Hat."""
    group = {"faces": 12, "average_precision": 0.6, "balanced_accuracy": 0.5, "accuracy": 0.7}
    difference = {"average_precision": -0.083, "average_precision_interval": [-0.12, -0.05]}
    return {
        "means": {"average_precision": None if value is None else [value - 0.013, value + 0.017]},
        "gains": {"average_precision": {"value": 0.1, "interval": [0.02 if good else -0.02, 0.2]}},
        "gaps": {"Hat": {"yes": group, "no": group, "difference": difference}} if trained else {},
        "reliability": [{"predicted": 0.1, "observed": 0.2, "count": 9}],
    }


def write_maps(output: Path) -> None:
    """An attribution map, and the entry of one without a picture."""
    (output / "explain").mkdir()
    cv2.imwrite(str(output / "explain" / "hat.png"), np.zeros((8, 8, 3), np.uint8))
    files = {"Wearing_Hat": "hat.png", "Gone": "gone.png"}
    maps = [{"name": name, "branch": "upper", "file": file} for name, file in files.items()]
    (output / "explain" / "maps.json").write_text(json.dumps({"attributes": maps}))


def write_runs(
    output: Path, attributes: tuple[str, ...], precision: Mapping[str, float | None], good: bool = True
) -> None:
    """Results by run name such as ``scratch-5%``; `good` runs predict test labels, others are noise."""
    details: dict[str, Any] = {}
    uncertain: dict[str, Any] = {}
    runs, predictions = [], []
    for name, value in {MAJORITY: 0.25, **precision}.items():
        means = {"accuracy": 0.811, "balanced_accuracy": 0.523, "average_precision": value, "roc_auc": 0.612}
        means |= {"f1": 0.4, "calibration_error": 0.07}
        uncertain[name] = intervals_of(value, name != MAJORITY, good)
        details[name] = {attribute: {"threshold": 0.5, **means} for attribute in attributes}
        method, _, share = name.partition("-")
        if name == MAJORITY:
            continue
        labels = float(share[:-1]) / 100
        faces = round(40 * labels)
        known = {"name": name, "method": method, "title": TITLES[method], "pretrained": method != "scratch"}
        known |= {"few_examples": list(attributes[:1])} if method == "pretrained" else {}
        runs.append({**known, "labels": labels, "faces": faces, "steps": 9, "seconds": 61.0, "loss": 0.5})
        count, random = SIZES["test"], np.random.default_rng(len(name))
        columns: dict[str, Any] = {"run": [name] * count, "key": [f"test{i:03d}" for i in range(count)]}
        for i, attribute in enumerate(attributes):
            truth = np.arange(count) % (2 + i) == 0
            skill = 0.8 * truth if method == "pretrained" and good else 0.0 * truth
            columns[attribute] = (0.2 * random.random(count) + skill).astype(np.float32)
        predictions.append(pa.table(columns))
    (output / "finetune").mkdir(parents=True)
    (output / "evaluate").mkdir()
    (output / "finetune" / "runs.json").write_text(json.dumps(runs))
    details = details if runs else {}
    first = {name: entry[attributes[0]] for name, entry in details.items()}
    averages = {name: {score: entry[score] for score in METRICS} for name, entry in first.items()}
    (output / "evaluate" / "metrics.json").write_text(json.dumps(averages))
    (output / "evaluate" / "attributes.json").write_text(json.dumps(details))
    (output / "evaluate" / "intervals.json").write_text(json.dumps(uncertain))
    empty = pa.table({"run": pa.array([], pa.string()), "key": pa.array([], pa.string())})
    table = pa.concat_tables(predictions) if predictions else empty
    pq.write_table(table, output / "evaluate" / "predictions.parquet")


def make(layout: Layout, output: Path) -> str:
    report(CONFIG, layout, output, output / "report.html")
    return (output / "report.html").read_text(encoding="utf-8")


def text_of(page: str) -> str:
    """The visible words of a page or of a part of it."""
    words = re.sub(r"<style.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL)
    return " ".join(unescape(words).replace("\u202f", " ").split())


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full")
    names = ("Wearing_Hat", HOSTILE, "Glasses")
    layout = write_shards(folder / "shards", names, dataset="faces <b>&")
    write_pretraining(folder / "runs")
    precision = {"scratch-5%": 0.314, "pretrained-5%": 0.38, "scratch-100%": 0.525, "pretrained-100%": 0.551}
    write_runs(folder / "runs", names, precision)
    write_maps(folder / "runs")
    stage = {"workers": 2, "made": 3, "kept": 0, "images": 75}
    stages = {"parse": {"seconds": 1800.0, **stage}, "align": {"seconds": 60.0, **stage}}
    (layout.manifests / "stages.json").write_text(json.dumps(stages))
    return layout, folder / "runs", make(layout, folder / "runs")


def test_the_page_has_the_numbers_and_equal_results_give_equal_pages(full):
    layout, output, page = full
    assert make(layout, output) == page
    words = text_of(page)
    for expected in (
        "With 2 labelled faces, the best classifier is “pre-trained”: mean average precision 38.0 % "
        "(95 % interval 36.7 % to 39.7 %)",
        "Pre-training on 40 faces without labels raises mean average precision from 31.4 % (from scratch) to "
        "38.0 % (pre-trained)",
        "2 labelled faces: pre-trained, 38.0 % (36.7\u201339.7) python -m training.predict --checkpoint",
        "40 labelled faces: pre-trained, 55.1 % (53.8\u201356.8) python -m training.predict --checkpoint",
        "pretrained-5%/classifier.pt photos/ --output faces.csv Few labelled faces have these attributes, or "
        "few lack them, so predictions of them are uncertain: Wearing Hat.",
        "is right in 81.1 % of all cases",
        "72 samples",
        "train 40 40",
        f"Samples per second {50 * load().pretrain.batch_size / 125:.1f}",  # 50 steps in 125 seconds
        "2 min 05 s",
        "38.0 36.7\u201339.7",  # a score and its interval
        "Parse, 75 images 30 min 00 s 2 1.00",
        "Total 37 min 09 s",
        "Patch puzzle (PZT)",
        "PZT: solved <i> 71.0 64.0 12.5",
        "Position loss 0.024",
        "Critic (CRT) Loss 0.024",
        "Branch: upper",
        "Hat: 12 test faces with, 12 without",
        "\u22128.3 \u221212.0 to \u22125.0",
        "expected calibration error",
        manifest_hash(layout),
    ):
        assert expected in words, expected
    assert words.count("Wearing Hat") >= 2  # bars and table
    assert page.count('<td class="best">') == 2 * 2 + 2  # precision in both tables, and two clear gaps
    assert page.count('alt="Attribution map') == 1  # the other map has no picture


def test_names_are_escaped_and_nothing_is_loaded(full):
    page = full[2]
    assert "<b>&" not in page
    assert HOSTILE.replace("_", " ") in unescape(page)
    resources = re.findall(r' (?:src|href|srcset|data)="([^"]*)"', page)
    assert len(resources) > 1
    assert all(resource.startswith("data:") for resource in resources if resource != "data.html")
    assert not re.search(r"url\(|@import|https?://|<script|<iframe|<object", page)


def test_mistakes_show_wrong_predictions_only(full, tmp_path):
    assert "There is none" in full[2]  # the pre-trained run with most labels is right everywhere
    layout = write_shards(tmp_path / "shards", ("Hat", "Smile"))
    write_runs(tmp_path / "runs", ("Hat", "Smile"), {"scratch-5%": 0.4, "pretrained-5%": 0.4}, good=False)
    page = make(layout, tmp_path / "runs")
    assert "False negatives" in page
    assert "False positives" not in page  # noise stays below the threshold
    assert page.count("p = ") == 4  # two per attribute


def test_predictions_that_are_right_are_sure_enough(full, monkeypatch):
    monkeypatch.setattr(diagnostics, "STATED", (0.2,))  # 24 test faces can show no less
    page = make(*full[:2])
    (share,) = re.findall(r"40 labelled faces, pre-trained</th><td>([\d.]+) \(0\.0\)</td></tr>", page)
    assert 20 < float(share) < 80  # thresholds lie within what the other half of the people has


def test_without_labels_no_classifier_is_claimed_and_the_stored_configuration_wins(tmp_path):
    layout = write_shards(tmp_path / "shards", ())
    write_pretraining(tmp_path / "runs")
    write_runs(tmp_path / "runs", (), {})
    used = load(settings=["pretrain.batch_size=96", "evaluate.batch_size=7"])
    save_pretrained(tmp_path / "runs" / "pretrain" / "pretrained.safetensors", nn.Linear(1, 1), used)
    page = make(layout, tmp_path / "runs")
    assert (
        "72 faces in shards, and the network is pre-trained on 40 faces; "
        "no classifier was trained, because no face has a label"
    ) in text_of(page)
    assert 'id="pretraining"' in page and 'id="dataset"' in page
    assert 'id="scores"' not in page and 'id="mistakes"' not in page
    assert "Samples per second 38.4" in text_of(page)  # 50 steps of 96 in 125 seconds
    assert "batch_size: 7" not in page  # that section has no part in pre-training


@pytest.mark.parametrize(
    ("precision", "good", "expected"),
    [
        ({"scratch-5%": 0.4, "pretrained-5%": 0.3}, True, "lowers mean average precision from 40.0 % (from"),
        ({"scratch-5%": 0.4, "pretrained-5%": 0.3}, True, "best classifier is “from scratch”: mean average"),
        ({"scratch-5%": 0.4, "pretrained-5%": 0.41}, False, "too small for 24 test faces to settle"),
        ({"scratch-5%": None, "pretrained-5%": None}, True, "each attribute has only one value"),
        ({"scratch-5%": None, "pretrained-5%": 0.4}, True, "best classifier is “pre-trained”"),
    ],
)
def test_the_first_words_claim_no_more_than_the_results(tmp_path, precision, good, expected):
    layout = write_shards(tmp_path / "shards", ("Hat",))
    write_runs(tmp_path / "runs", ("Hat",), precision, good)
    text = text_of(make(layout, tmp_path / "runs"))
    assert expected in text[: text.index("What to use")]


def test_missing_results_are_named(tmp_path):
    layout = write_shards(tmp_path / "shards", ("Hat",))
    with pytest.raises(UserError, match="--stage finetune"):
        make(layout, tmp_path / "runs")
    write_runs(tmp_path / "runs", ("Hat",), {"scratch-5%": 0.4})
    (tmp_path / "runs" / "evaluate" / "metrics.json").write_text("{}")
    with pytest.raises(UserError, match="--stage evaluate"):
        make(layout, tmp_path / "runs")


def test_a_figure_follows_the_colours_of_the_page_and_leaves_nothing_behind_in_it():
    svg = figure(lambda axes: axes.plot([0, 1], [0, 1], color=SERIES[2]), '"><script>')
    assert "stroke: var(--series-2)" in svg
    assert not re.search(r"#[0-9a-f]{6}|<style|<metadata|<script|clip-path| id=\"axes", svg)
    assert svg == figure(lambda axes: axes.plot([0, 1], [0, 1], color=SERIES[2]), '"><script>')


def test_a_folder_without_git_has_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit(Path(__file__).parent.parent) is None


@needs_chromium
def test_a_browser_renders_the_page_without_errors_and_nothing_sticks_out(full, tmp_path):
    check_page(full[1] / "report.html", tmp_path)
