"""Small changes cost little: labels make no shard stale, and new photos go into new shards."""

from pathlib import Path
from typing import Any

import pytest

from common import manifest
from common.config import Config, load
from common.layout import Layout
from pipeline.align.run import plan, read_plan
from pipeline.ingest.plan import shard_size
from pipeline.ingest.run import ingest
from tests import manifests
from training.data.samples import pixels_hash

PHOTOS, LABELLED, SHARD = 200, 100, 4


class Input:
    """A folder of photos and a table of labels, and how often finished shards would be made again."""

    def __init__(self, folder: Path, *settings: str) -> None:
        self.photos, self.table = folder / "photos", folder / "labels.csv"
        self.layout = Layout.at(folder / "out")
        self._settings = settings
        self.photos.mkdir()
        for number in range(PHOTOS):
            (self.photos / f"{number:03}.jpg").write_bytes(b"\xff\xd8\xffphoto %d" % number)
        self.label(LABELLED, "Male")
        self.fingerprints = self._plan()

    @property
    def config(self) -> Config:
        own = [f"data.input={self.photos}", f"ingest.labels={self.table}", f"ingest.shard_size={SHARD}"]
        return load(settings=[*own, "data.name=d", "align.mode=none", *self._settings])

    def label(self, count: int, *names: str) -> None:
        """Write the labels of the first `count` photos."""
        rows = [",".join(("path", *names))]
        rows += [",".join((f"{number:03}.jpg", *(str(number % 2) for _ in names))) for number in range(count)]
        self.table.write_text("\n".join(rows) + "\n")

    def stale(self) -> int:
        """Plan again, and count the shards that are new or not what they were; none vanishes."""
        before, self.fingerprints = self.fingerprints, self._plan()
        assert before.keys() <= self.fingerprints.keys()
        return len(self.fingerprints.items() - before.items())

    def rows(self) -> list[dict[str, Any]]:
        return manifest.read(self.layout.source).rows()

    def _plan(self) -> dict[str, str]:
        ingest(self.config, self.layout)
        tasks = plan(read_plan(self.layout), self.config, self.layout)
        return {task.tar.name: task.inputs for task in tasks}


@pytest.fixture
def data(tmp_path):
    return Input(tmp_path)


def test_one_photo_more_is_one_shard(data):
    (data.photos / "000a.jpg").write_bytes(b"\xff\xd8\xffnew")
    assert data.stale() == 1
    (data.photos / "zzz.jpg").write_bytes(b"\xff\xd8\xffnewer")
    assert data.stale() == 1
    assert sum(row["key"] is not None for row in data.rows()) == PHOTOS + 2


def test_another_attribute_or_more_labels_make_no_shard_again_and_are_in_the_manifest(data):
    data.label(LABELLED + 50, "Male", "Young")
    assert data.stale() == 0
    rows = data.rows()
    assert rows[1]["Young"] == 1
    assert sum(row["Male"] is not None for row in rows) == LABELLED + 50
    assert {row["split"] for row in rows[:150]} == {"train", "val", "test"}
    assert {row["split"] for row in rows[150:]} == {"unlabelled"}


def test_a_photo_that_another_precedes_or_that_is_removed_leaves_the_others_where_they_are(data):
    shards = {row["key"]: row["shard"] for row in data.rows()}
    (data.photos / "000.jpg").rename(data.photos / "later.jpg")
    assert data.stale() == 1
    assert {row["key"]: row["shard"] for row in data.rows() if row["key"]} == shards


def test_another_size_of_shards_is_another_plan(data):
    config = data.config
    larger = config.model_copy(update={"ingest": config.ingest.model_copy(update={"shard_size": 50})})
    ingest(larger, data.layout)
    assert len({row["shard"] for row in data.rows()}) < PHOTOS // SHARD // 2


@pytest.mark.parametrize(
    ("photos", "expected"),
    [
        pytest.param(20, 16, id="a few photos share a shard"),
        pytest.param(3200, 50, id="a small set has 64 shards for its workers"),
        pytest.param(320_000, 1000, id="a large one has shards of the configured size"),
    ],
)
def test_small_sets_have_shards_for_all_workers(photos, expected):
    assert shard_size(photos, load(settings=["ingest.shard_size=1000"]).ingest) == expected


Row = dict[str, Any]


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda row: {"Male": 1}, True),
        (lambda row: {"split": "train"} if row["split"] == "unlabelled" else {}, True),
        (lambda row: {"identity": "somebody", "notices": "no-label", "json.size": 9}, True),
        (lambda row: {"split": "val"} if row["split"] == "unlabelled" else {}, False),
        (lambda row: {"jpg.crc32": 9}, False),
        (lambda row: {"key": f"{row['key']}9"}, False),
        (lambda row: {"shard": "d/train-000001.tar"}, False),
    ],
)
def test_stage_1_is_stale_if_its_faces_change_and_not_if_labels_do(change, same, tmp_path):
    names = [name for name in manifest.SAMPLE_FIELDS.names if name.endswith((".offset", ".size", ".crc32"))]
    rows = [
        {"key": f"k{index}", "shard": "d/train-000000.tar", "split": split} | dict.fromkeys(names, index)
        for index, split in enumerate(("train", "unlabelled", "val", "test"))
    ]
    layouts = Layout.at(tmp_path / "before"), Layout.at(tmp_path / "after")
    for layout, written in zip(layouts, (rows, [row | change(row) for row in rows]), strict=True):
        manifests.write(layout.samples, manifest.SAMPLE_FIELDS, written, ("Male",), {"dataset": "d"})
    assert (pixels_hash(layouts[0]) == pixels_hash(layouts[1])) == same
