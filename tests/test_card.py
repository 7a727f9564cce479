"""The data card: its numbers, odd sets, the same bytes, and a real browser."""

import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from matplotlib.axes import Axes
from s3fs import S3FileSystem

from common import manifest
from common.cell_counts import cell_class_counts
from common.errors import UserError
from common.layout import Layout
from common.page.figures import correlations, figure
from common.shards import MEMBERS, ShardWriter, decode_face, encode_cell_counts, encode_face, encode_mask
from common.storage import Address
from pipeline.card.counts import count_all
from pipeline.card.page import card, write_card
from pipeline.card.samples import summarize_samples

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def page(shards: Layout, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("card") / "data.html"
    write_card(shards, file)
    return file


def text_of(page: Path) -> str:
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", page.read_text(encoding="utf-8"))))


def copied(shards: Layout, folder: Path) -> Layout:
    shutil.copytree(Path(str(shards.shards)), folder, dirs_exist_ok=True)
    return Layout.at(folder)


def test_the_page_says_what_the_manifests_say(page: Path, shards: Layout) -> None:
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


def test_correlations_are_those_of_numpy(shards: Layout) -> None:
    labels = count_all(shards).labels
    rows = manifest.read(shards.samples).rows()
    values = np.array([[row[name] for name in labels.names] for row in rows], float)
    changing = values.std(axis=0) > 0
    assert changing.sum() > 10
    expected = np.corrcoef(values[:, changing].T)
    assert np.allclose(labels.phi[np.ix_(changing, changing)], expected)
    assert np.isnan(labels.phi[~changing]).all()


def test_the_average_and_the_shown_faces_are_those_of_the_shards(shards: Layout) -> None:
    summary = summarize_samples(shards)
    rows = manifest.read(shards.samples).rows()
    faces = []
    for row in rows:
        data = (shards.shards / row["shard"]).read_bytes()
        faces.append(decode_face(data[row["jpg.offset"] :][: row["jpg.size"]]))
    assert np.abs(np.mean(faces, axis=0) - summary.face).max() <= 0.51
    confidence = {row["key"]: row["confidence"] for row in rows}
    best, worst = ([face.key for face in summary.faces[kind]] for kind in ("best", "worst"))
    ranked = sorted(confidence, key=lambda key: confidence[key])
    assert set(worst) == set(ranked[: len(worst)])
    assert set(best) == set(ranked[-len(best) :])
    for face in summary.faces["best"]:
        number = next(i for i, row in enumerate(rows) if row["key"] == face.key)
        assert np.array_equal(face.face, faces[number])


def test_equal_shards_give_equal_bytes(page: Path, shards: Layout, tmp_path: Path) -> None:
    write_card(shards, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()


def test_a_set_without_labels_and_with_refusals_has_a_page_that_says_so(
    shards: Layout, tmp_path: Path
) -> None:
    layout = copied(shards, tmp_path)
    rows = manifest.read(layout.samples).rows()
    plain = [row | {"split": "unlabelled", "identity": None} for row in rows]
    manifest.write(layout.samples, manifest.SAMPLE_FIELDS, plain, metadata={"dataset": "portraits"})
    lost = {"source": "bad<b>.jpg", "reason": "no-face", "detail": "none"}
    manifest.write(layout.quarantine, manifest.QUARANTINE_FIELDS, [lost])
    source = [*manifest.read(layout.source).rows(), {"source": lost["source"]}]
    manifest.write(layout.source, manifest.SOURCE_FIELDS, source)
    write_card(layout, tmp_path / "data.html")
    text = text_of(tmp_path / "data.html")
    assert "There are none: the set is for pre-training alone." in text
    assert "no-face while aligning or parsing 1" in text
    assert f"unlabelled {len(rows)}" in text


def test_what_is_wrong_with_a_set_is_marked(shards: Layout, tmp_path: Path) -> None:
    layout = copied(shards, tmp_path)
    listed = manifest.read(layout.samples)
    rows = listed.rows()
    rows[0]["identity"], rows[-1]["identity"] = "anna", "anna"
    assert rows[0]["split"] != rows[-1]["split"]
    rows[1]["key"] = rows[0]["key"]
    manifest.write(layout.samples, manifest.SAMPLE_FIELDS, rows, listed.attributes, listed.metadata)
    checks = dict(count_all(layout).checks)
    assert checks["no identity is in two splits"] == 1
    assert checks["no key occurs twice"] == 1
    write_card(layout, tmp_path / "data.html")
    assert text_of(tmp_path / "data.html").count("\u2717") == 2


def test_names_from_the_data_cannot_become_markup(shards: Layout, tmp_path: Path) -> None:
    layout = copied(shards, tmp_path)
    table = pq.read_table(Path(str(layout.samples)))
    hostile = "<script>alert(1)</script>"
    names = [hostile if name == "Smiling" else name for name in table.column_names]
    metadata = table.schema.metadata | {
        b"attributes": table.schema.metadata[b"attributes"].replace(b"Smiling", hostile.encode()),
        b"dataset": b"<img src=x onerror=alert(1)>",
    }
    pq.write_table(table.rename_columns(names).replace_schema_metadata(metadata), Path(str(layout.samples)))
    write_card(layout, tmp_path / "data.html")
    written = (tmp_path / "data.html").read_text(encoding="utf-8")
    assert "<script" not in written
    assert "<img src=x" not in written
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in written


def test_a_missing_set_or_shard_is_one_sentence(shards: Layout, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished shards"):
        write_card(Layout.at(tmp_path / "nowhere"), tmp_path / "x.html")
    layout = copied(shards, tmp_path / "copy")
    next(Path(str(layout.shards)).glob("*/*.tar")).unlink()
    with pytest.raises(UserError, match=r"pipeline\.verify"):
        write_card(layout, tmp_path / "x.html")


def test_a_damaged_shard_or_a_face_of_another_size_is_one_sentence(shards: Layout, tmp_path: Path) -> None:
    layout = copied(shards, tmp_path)
    tar = next(Path(str(layout.shards)).glob("*/test-*.tar"))
    whole = tar.read_bytes()
    for length in (0, len(whole) // 2):
        tar.write_bytes(whole[:length])
        with pytest.raises(UserError, match=rf"{tar.name}.*pipeline\.verify"):
            write_card(layout, tmp_path / "x.html")
    listed = manifest.read(layout.samples)
    rows = [row for row in listed.rows() if not row["shard"].endswith(tar.name)]
    members = {"jpg": encode_face(np.zeros((32, 32, 3), np.uint8)), "json": b"{}"}
    mask = np.zeros((32, 32), np.uint8)
    members |= {"mask.png": encode_mask(mask), "parts.npy": encode_cell_counts(cell_class_counts(mask, 12))}
    with ShardWriter(tar) as writer:
        extents = writer.add("small", members)
    small = rows[0] | {"key": "small", "shard": str(tar.relative_to(Path(str(layout.shards))))}
    for name, extent in extents.items():
        small |= {f"{name}.offset": extent.offset, f"{name}.size": extent.size}
    manifest.write(layout.samples, manifest.SAMPLE_FIELDS, [*rows, small], listed.attributes, listed.metadata)
    with pytest.raises(UserError, match=r"small cannot be read.*\(32, 32, 3\)"):
        write_card(layout, tmp_path / "x.html")


def test_labels_that_are_partly_unknown_are_given_per_attribute(shards: Layout, tmp_path: Path) -> None:
    layout = copied(shards, tmp_path)
    listed = manifest.read(layout.samples)
    rows = listed.rows()
    for number, row in enumerate(rows):
        row["Smiling"] = None if number % 4 == 0 else int(number % 4 == 1)
        row["Bald"] = None
    manifest.write(layout.samples, manifest.SAMPLE_FIELDS, rows, listed.attributes, listed.metadata)
    write_card(layout, tmp_path / "data.html")
    text = text_of(tmp_path / "data.html")
    share = len(range(1, len(rows), 4)) / sum(number % 4 > 0 for number in range(len(rows)))
    missing = len(range(0, len(rows), 4)) / len(rows)
    assert f"Smiling {100 * missing:.1f} % unknown {100 * share:.1f}" in text
    assert "Bald 100.0 % unknown \u2013" in text


def test_pairs_are_listed_once(shards: Layout, tmp_path: Path) -> None:
    layout = copied(shards, tmp_path)
    listed = manifest.read(layout.samples)
    rows = [
        {name: value for name, value in row.items() if name not in listed.attributes}
        | {"Hat": number % 2, "Smile": int(number % 6 == 1), "Bald": int(number % 2 == 0)}
        for number, row in enumerate(listed.rows())
    ]
    manifest.write(layout.samples, manifest.SAMPLE_FIELDS, rows, ("Hat", "Smile", "Bald"), listed.metadata)
    write_card(layout, tmp_path / "data.html")
    text = text_of(tmp_path / "data.html").partition("Strongest pairs")[2]
    assert [text.count(pair) for pair in ("Smile and Hat", "Bald and Hat", "Bald and Smile")] == [1, 1, 1]
    assert "Bald and Hat \u22121.00" in text


def test_only_the_bytes_of_the_samples_are_fetched_from_an_object_store(
    object_store: None, shards: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    from upath import UPath

    bucket: Address = UPath("s3://fewbytes", use_listings_cache=False)
    bucket.fs.mkdir("fewbytes")
    bucket.fs.put(str(shards.shards), "fewbytes/set", recursive=True)
    monkeypatch.setattr("pipeline.card.samples.MEASURED", 2)
    monkeypatch.setattr("pipeline.card.samples.AVERAGED", 1)
    monkeypatch.setattr("pipeline.card.samples.SHOWN", 1)
    fetched: list[int] = []
    call = S3FileSystem._call_s3

    async def counted(self: S3FileSystem, method: str, *arguments: Any, **settings: Any) -> Any:
        response = await call(self, method, *arguments, **settings)
        if method == "get_object" and settings["Key"].endswith(".tar"):
            fetched.append(response["ContentLength"])
        return response

    monkeypatch.setattr(S3FileSystem, "_call_s3", counted)
    summarize_samples(Layout.at("s3://fewbytes/set"))
    sizes = [sum(row[f"{name}.size"] for name in MEMBERS) for row in manifest.read(shards.samples).rows()]
    assert 1 <= len(fetched) <= 5  # measured, averaged, best, worst and random may be the same samples
    assert max(fetched) <= max(sizes) + 1024 * len(MEMBERS)  # headers and padding lie between members


def test_the_card_of_a_set_in_an_object_store_is_the_same(
    object_store: None, page: Path, shards: Layout
) -> None:
    from upath import UPath

    bucket: Address = UPath("s3://cards", use_listings_cache=False)
    bucket.fs.mkdir("cards")
    bucket.fs.put(str(shards.shards), "cards/set", recursive=True)
    layout = Layout.at("s3://cards/set")
    assert card(count_all(layout), summarize_samples(layout)) == page.read_text(encoding="utf-8")


def test_the_correlation_figure_has_a_cell_per_pair_and_none_where_it_is_unknown() -> None:
    values = np.array([[1, np.nan, np.nan], [-0.5, 1, np.nan], [np.nan, 0.25, 1]])
    images = []

    def draw(axes: Axes) -> None:
        correlations(axes, values, ["a", "b", "c"])
        images.append(np.asarray(axes.images[0].get_array()))

    assert "<image" in figure(draw, "x")
    opacity = images[0][..., 3]
    assert opacity.tolist() == [[0, 0, 0], [0.5, 0, 0], [0, 0.25, 0]]
    assert (images[0][1, 0, :3] != images[0][2, 1, :3]).any()  # the sign is a colour


def browse(page: Path, width: int, profile: Path) -> tuple[str, str]:
    """What a real browser says of the page at a width: its log, and the document that it ends with."""
    assert CHROMIUM is not None
    frame = page.with_name(f"frame-{width}.html")
    # A window may not be as narrow as a phone, a frame may.
    frame.write_text(
        f'<iframe src="{page.name}" style="width:{width}px;height:900px;border:0" onload="'
        "const root = this.contentDocument.documentElement;"
        'document.body.dataset.hidden = root.scrollWidth - root.clientWidth"></iframe>'
    )
    command = [
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
        *("--disable-background-networking", "--allow-file-access-from-files", "--enable-logging=stderr"),
        *(f"--user-data-dir={profile}", "--virtual-time-budget=3000", "--dump-dom", frame.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-1000:]
    return done.stderr, done.stdout


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed, so the page cannot be rendered")
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_renders_the_card_without_errors_and_nothing_sticks_out(
    page: Path, tmp_path: Path, width: int
) -> None:
    copy = Path(shutil.copy(page, tmp_path))
    log, document = browse(copy, width, tmp_path / "profile")
    assert "CONSOLE" not in log
    assert 'data-hidden="0"' in document


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed, so the page cannot be rendered")
def test_the_browser_test_would_see_an_error(page: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    broken.write_text(
        page.read_text(encoding="utf-8").replace("</main>", "<script>nothing()</script></main>")
    )
    log, _ = browse(broken, 390, tmp_path / "profile")
    assert "CONSOLE" in log
