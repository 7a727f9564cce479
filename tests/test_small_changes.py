"""Small changes cost little: what is as it was is neither read nor made again; labels make nothing stale."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common import manifest
from common.config import Config, load
from common.input_files import FileTree
from common.layout import Layout
from common.storage import TransientError
from pipeline.align.run import plan, read_plan
from pipeline.ingest import hashing
from pipeline.ingest.hashing import Content, Photo, Photos, read_content
from pipeline.ingest.plan import shard_size
from pipeline.ingest.run import ingest
from tests import manifests
from training.data.samples import pixels_hash

PHOTOS, LABELLED, SHARD = 200, 100, 4


class Input:
    """A folder of photos and a table of labels, and how often finished shards would be made again."""

    def __init__(self, folder: Path, photos: int = PHOTOS, labelled: int = LABELLED) -> None:
        self.photos, self.table = folder / "photos", folder / "labels.csv"
        self.layout, self.fingerprints = Layout.at(folder / "out"), dict[str, str]()
        self.photos.mkdir()
        for number in range(photos):
            self.write(number, b"photo")
        self.label(labelled, "Male")

    def config(self, *settings: str) -> Config:
        own = [f"data.input={self.photos}", f"ingest.labels={self.table}", f"ingest.shard_size={SHARD}"]
        own += ["data.name=d", "align.mode=none", "cluster.workers=2", "stream.retry_minutes=0.02"]
        return load(settings=[*own, *settings])

    def write(self, number: int, content: bytes) -> None:
        (self.photos / f"{number:03}.jpg").write_bytes(b"\xff\xd8\xff%s %03d" % (content, number))

    def label(self, count: int, *names: str) -> None:
        """Write the labels of the first `count` photos."""
        rows = [",".join(("path", *names))]
        rows += [",".join((f"{number:03}.jpg", *(str(number % 2) for _ in names))) for number in range(count)]
        self.table.write_text("\n".join(rows) + "\n")

    def stale(self) -> int:
        """Plan again, and count the shards that are new or not what they were; none vanishes."""
        ingest(self.config(), self.layout)
        tasks = plan(read_plan(self.layout), self.config(), self.layout)
        before, self.fingerprints = self.fingerprints, {task.tar.name: task.inputs for task in tasks}
        assert before.keys() <= self.fingerprints.keys()
        return len(self.fingerprints.items() - before.items())

    def read(self, *settings: str, fail: Callable[[str], None] = lambda path: None) -> list[str]:
        """Plan again, and return the sorted paths of the photos that are read; `fail` may raise at one."""
        config, done = self.config(*settings), list[str]()

        def read(photo: Photo) -> Content | TransientError:
            try:
                fail(photo.path)
            except TransientError as error:
                return error
            done.append(photo.path)
            return read_content(self.photos, config.ingest.max_pixels, photo)

        photos = Photos(FileTree(self.photos).stamps, read, threads=8, cluster=None)
        ingest(config, self.layout, photos=photos)
        return sorted(done)

    def rows(self) -> list[dict[str, Any]]:
        return manifest.read(self.layout.source).rows()

    @property
    def records(self) -> list[Path]:
        return sorted((self.layout.manifests / "records-ingest").rglob("*.parquet"))


@pytest.fixture
def data(tmp_path):
    data = Input(tmp_path)
    data.stale()
    return data


def test_one_photo_more_or_a_renamed_one_is_one_shard_and_another_size_of_shards_another_plan(data):
    shards = {row["key"]: row["shard"] for row in data.rows()}
    (data.photos / "000.jpg").rename(data.photos / "later.jpg")
    assert data.stale() == 1
    assert {row["key"]: row["shard"] for row in data.rows() if row["key"]} == shards
    for name in ("000a.jpg", "zzz.jpg"):
        (data.photos / name).write_bytes(b"\xff\xd8\xffnew" + name.encode())
        assert data.stale() == 1
    assert sum(row["key"] is not None for row in data.rows()) == PHOTOS + 2
    ingest(data.config("ingest.shard_size=50"), data.layout)
    assert len({row["shard"] for row in data.rows()}) < PHOTOS // SHARD // 2


def test_another_attribute_or_more_labels_make_no_shard_again_and_are_in_the_manifest(data):
    data.label(LABELLED + 50, "Male", "Young")
    assert data.stale() == 0
    rows = data.rows()
    assert rows[1]["Young"] == 1
    assert sum(row["Male"] is not None for row in rows) == LABELLED + 50
    assert {row["split"] for row in rows[:150]} == {"train", "val", "test"}
    assert {row["split"] for row in rows[150:]} == {"unlabelled"}


def test_small_sets_have_shards_for_all_workers():
    settings = load(settings=["ingest.shard_size=1000"]).ingest
    sizes = {photos: shard_size(photos, settings) for photos in (20, 3200, 320_000)}
    assert sizes == {20: 16, 3200: 50, 320_000: 1000}  # a few share a shard; 64 for workers; as configured


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


COUNT, PART = 40, 8


@pytest.fixture
def hashed(tmp_path, monkeypatch):
    """An input whose hashes are recorded in files of few."""
    monkeypatch.setattr(hashing, "PART", PART)
    return Input(tmp_path, COUNT, COUNT)


def test_a_second_run_reads_only_what_has_changed(hashed):
    def check(expected: list[str]) -> None:
        assert hashed.read("ingest.limit=1000") == expected
        rows = hashed.rows()
        shutil.rmtree(hashed.layout.manifests / "records-ingest")
        hashed.read()
        assert hashed.rows() == rows

    everything = [f"{number:03}.jpg" for number in range(COUNT)]
    assert hashed.read() == everything
    check([])
    hashed.write(7, b"other")
    os.utime(hashed.photos / "009.jpg", (1, 1))
    check(["007.jpg", "009.jpg"])
    (hashed.photos / "000.jpg").unlink()
    (hashed.photos / "0205.jpg").write_bytes(b"\xff\xd8\xffnew")
    check(["0205.jpg"])
    hashed.photos = hashed.photos.rename(hashed.photos.with_name("moved"))
    check(sorted({*everything, "0205.jpg"} - {"000.jpg"}))


def test_of_a_damaged_file_of_records_its_photos_alone_are_read_and_one_too_large_now_is_refused(hashed):
    (hashed.photos / "000.jpg").unlink()  # so that all files of records have as many rows
    (hashed.photos / "large.jpg").write_bytes(b"\xff\xd8\xff" + bytes(900))
    hashed.read()
    rows = hashed.rows()
    hashed.records[0].write_bytes(b"PAR1")
    assert len(hashed.read()) == PART
    assert hashed.rows() == rows
    assert hashed.read("ingest.max_pixels=100") == ["large.jpg"]
    assert [row["source"] for row in hashed.rows() if row["reason"] == "too-large"] == ["large.jpg"]


def test_an_interrupted_run_continues_with_what_is_not_hashed(hashed):
    def interrupt(path: str) -> None:
        if path == "020.jpg":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hashed.read(fail=interrupt)
    assert not hashed.layout.source.exists()
    assert hashed.read() == [f"{number:03}.jpg" for number in range(2 * PART, COUNT)]


def test_a_photo_that_the_store_did_not_hand_out_is_not_recorded_but_the_others_are(hashed):
    absent = ["020.jpg"]

    def fail(path: str) -> None:
        if path in absent:
            absent.remove(path)
            raise TransientError(path)

    assert len(hashed.read(fail=fail)) == COUNT
    assert hashed.read() == []


def test_the_workers_of_a_cluster_hash_many_photos_and_record_them(hashed, monkeypatch, capsys):
    hashed.read()
    expected = hashed.rows()
    shutil.rmtree(hashed.layout.manifests / "records-ingest")
    monkeypatch.setattr(hashing, "HERE", 0)
    capsys.readouterr()
    ingest(hashed.config(), hashed.layout)
    assert "2 workers" in capsys.readouterr().out
    assert hashed.rows() == expected
    assert len(hashed.records) == COUNT // PART
    ingest(hashed.config(), hashed.layout)
    assert "workers" not in capsys.readouterr().out
    assert hashed.read() == []
