"""The data card: its numbers, odd sets, the same bytes, and a real browser."""

import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from upath import UPath

from common import manifest
from common.errors import UserError
from common.layout import Layout
from common.members import decode_face
from common.shards import extent_of, read_member
from common.storage import Address
from pipeline.card.counts import count_all
from pipeline.card.page import card, write_card
from pipeline.card.samples import summarize_samples
from tests import manifests
from tests.browser import check_page, needs_chromium


@pytest.fixture(scope="module")
def page(shards, tmp_path_factory):
    file = tmp_path_factory.mktemp("card") / "data.html"
    write_card(shards, file)
    return file


def text_of(page: Path) -> str:
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", page.read_text(encoding="utf-8"))))


Rows = list[dict[str, Any]]


def written(layout: Layout) -> str:
    """The text of the set's page."""
    file = Path(str(layout.shards)) / "data.html"
    write_card(layout, file)
    return text_of(file)


def change_samples(layout: Layout, change: Callable[[Rows], object]) -> None:
    listed = manifest.read(layout.samples)
    rows = listed.rows()
    change(rows)
    manifests.write(layout.samples, manifest.SAMPLE_FIELDS, rows, listed.attributes, listed.metadata)


def test_the_page_says_what_the_manifests_say(page, shards):
    text = text_of(page)
    samples = manifest.read(shards.samples).rows()
    assert f"{len(samples)} faces with masks" in text
    for split in ("train", "val", "test"):
        rows = [row for row in samples if row["split"] == split]
        people = len({row["identity"] for row in rows})
        confidence = np.mean([row["confidence"] for row in rows])
        listed = re.search(rf"{split} (\d+) [\d.]+ % (\d+) (\d+) ([\d.]+)", text)
        assert listed is not None, split
        assert [int(listed[i]) for i in (1, 2, 3)] == [len(rows), len({row["shard"] for row in rows}), people]
        assert float(listed[4]) == pytest.approx(confidence, abs=6e-4)
    smiling = [row["Smiling"] for row in samples if row["Smiling"] is not None]
    assert f"Smiling {100 * np.mean(smiling):.1f}" in text
    assert text.count("\u2713") == 4


def test_correlations_are_those_of_numpy(shards):
    counts = count_all(shards)
    rows = manifest.read(shards.samples).rows()
    values = np.array([[row[name] for name in counts.attributes] for row in rows], float)
    changing = values.std(axis=0) > 0
    assert changing.sum() > 10
    expected = np.corrcoef(values[:, changing].T)
    assert np.allclose(counts.phi[np.ix_(changing, changing)], expected)
    assert np.isnan(counts.phi[~changing]).all()


def test_the_average_and_the_shown_faces_are_those_of_the_shards(shards):
    summary = summarize_samples(shards)
    faces, confidence = {}, {}
    for row in manifest.read(shards.samples).rows():
        data = read_member(shards.shards, row["shard"], extent_of(row, "jpg"))
        faces[row["key"]], confidence[row["key"]] = decode_face(data), row["confidence"]
    assert np.abs(np.mean([*faces.values()], axis=0) - summary.face).max() <= 0.51
    best, worst = ({key for key, _, _ in summary.faces[kind]} for kind in ("best", "worst"))
    ranked = sorted(confidence, key=lambda key: confidence[key])
    assert (worst, best) == (set(ranked[: len(worst)]), set(ranked[-len(best) :]))
    for key, shown, image in summary.faces["best"]:
        assert shown == confidence[key]
        assert np.array_equal(image[:, : image.shape[0]], faces[key])


def test_equal_shards_give_equal_bytes_from_folders_and_object_stores(object_store, page, shards, tmp_path):
    bucket: Address = UPath("s3://cards", use_listings_cache=False)
    bucket.fs.mkdir("cards")
    bucket.fs.put(str(shards.shards), "cards/set", recursive=True)
    for layout in (shards, Layout.at("s3://cards/set")):
        write_card(layout, tmp_path / "again.html")
        assert (tmp_path / "again.html").read_bytes() == page.read_bytes()


def test_a_set_without_labels_and_with_refusals_has_a_page_that_says_so(copy):
    plain = [row | {"split": "unlabelled", "identity": None} for row in manifest.read(copy.samples).rows()]
    manifests.write(copy.samples, manifest.SAMPLE_FIELDS, plain, metadata={"dataset": "portraits"})
    early = {"source": "early.jpg", "reason": "empty", "detail": "0 bytes"}
    late = {"source": "bad<b>.jpg", "reason": "no-face", "detail": "none"}
    manifests.write(copy.quarantine, manifest.QUARANTINE_FIELDS, [early, late])
    source = [*manifest.read(copy.source).rows(), early, {"source": late["source"]}]
    manifests.write(copy.source, manifest.SOURCE_FIELDS, source)
    text = written(copy)
    assert "There are none: the set is for pre-training alone." in text
    assert "empty while listing 1" in text
    assert "no-face while aligning or parsing 1" in text
    assert f"unlabelled {len(plain)}" in text
    assert text.count("\u2713") == 4


def test_what_is_wrong_with_a_set_is_marked_and_labels_that_are_partly_unknown_are_given_per_attribute(copy):
    def spoil(rows: Rows) -> None:
        assert rows[0]["split"] != rows[-1]["split"]
        rows[0]["identity"] = rows[-1]["identity"] = "anna"
        rows[1]["key"] = rows[0]["key"]
        rows[2]["source"] = "nobody.jpg"
        for number, row in enumerate(rows):
            row |= {"Smiling": None if number % 4 == 0 else int(number % 4 == 1), "Bald": None}

    change_samples(copy, spoil)
    assert [count for _, count in count_all(copy).checks] == [1, 1, 0, 1]
    text = written(copy)
    assert text.count("\u2717") == 3
    assert "Smiling 25.0 % unknown 33.3" in text
    assert "Bald 100.0 % unknown \u2013" in text


def test_names_from_the_data_cannot_become_markup(copy):
    table = pq.read_table(copy.samples)
    hostile = '<script>alert("1")</script>'
    names = [hostile if name == "Smiling" else name for name in table.column_names]
    attributes = table.schema.metadata[b"attributes"].replace(b"Smiling", hostile.encode())
    image = b"<img src=x onerror=alert(1)>"
    metadata = table.schema.metadata | {b"attributes": attributes, b"dataset": image}
    pq.write_table(table.rename_columns(names).replace_schema_metadata(metadata), copy.samples)
    html = card(count_all(copy), summarize_samples(copy))
    assert "<script" not in html and "<img src=x" not in html
    assert "&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt;" in html


def test_missing_and_damaged_sets_are_one_sentence(copy, tmp_path):
    with pytest.raises(UserError, match="no finished shards"):
        written(Layout.at(tmp_path / "nowhere"))
    tar = next(Path(str(copy.shards)).glob("*/test-*.tar"))
    whole = tar.read_bytes()
    for length in (len(whole) // 2, 0):
        tar.write_bytes(whole[:length])
        with pytest.raises(UserError, match=rf"{tar.name}.*pipeline\.verify"):
            written(copy)
    tar.unlink()
    with pytest.raises(UserError, match=r"pipeline\.verify"):
        written(copy)
    change_samples(copy, list.clear)
    with pytest.raises(UserError, match="lists no sample"):
        written(copy)


@needs_chromium
def test_a_browser_renders_the_card_without_errors_and_nothing_sticks_out(page, tmp_path):
    check_page(page, tmp_path)
