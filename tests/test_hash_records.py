"""Hashes of photos are recorded, by this process or by workers: what has not changed is not read again."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from common import manifest
from common.config import Config, load
from common.input_files import FileTree
from common.layout import Layout
from common.storage import TransientError
from pipeline.ingest import hashing
from pipeline.ingest.hashing import Content, Photo, Photos, read_content
from pipeline.ingest.run import ingest

COUNT, PART = 40, 8


class Input:
    """A folder of photos; which of them each run of ingest has read."""

    def __init__(self, folder: Path) -> None:
        self.photos, self.layout = folder / "photos", Layout.at(folder / "out")
        self.read: list[str] = []
        self.photos.mkdir()
        for number in range(COUNT):
            self.write(number, b"photo")

    @property
    def parts(self) -> list[Path]:
        return sorted((self.layout.manifests / "records-ingest").rglob("*.parquet"))

    def write(self, number: int, content: bytes) -> None:
        (self.photos / f"{number:03}.jpg").write_bytes(b"\xff\xd8\xff%s %03d" % (content, number))

    def config(self, *settings: str) -> Config:
        own = [f"data.input={self.photos}", "data.name=d", "cluster.workers=2", "stream.retry_minutes=0.02"]
        return load(settings=[*own, *settings])

    def ingest(self, *settings: str, fail: Callable[[str], None] = lambda path: None) -> list[str]:
        """The sorted paths of the photos that a run reads; `fail` may raise at one."""
        config, self.read = self.config(*settings), []

        def read(photo: Photo) -> Content | TransientError:
            fail(photo.path)
            content = read_content(self.photos, config.ingest.max_pixels, photo)
            self.read.append(photo.path)
            return content

        ingest(
            config, self.layout, photos=Photos(FileTree(self.photos).stamps, read, threads=8, cluster=None)
        )
        return sorted(self.read)

    def rows(self) -> list[dict[str, object]]:
        return manifest.read(self.layout.source).rows()


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setattr(hashing, "PART", PART)
    return Input(tmp_path)


def keep_all(data: Input) -> list[str]:
    return []


def change_one(data: Input) -> list[str]:
    data.write(7, b"other")
    return ["007.jpg"]


def touch_one(data: Input) -> list[str]:
    os.utime(data.photos / "009.jpg", (1, 1))
    return ["009.jpg"]


def add_and_remove(data: Input) -> list[str]:
    (data.photos / "000.jpg").unlink()
    (data.photos / "0205.jpg").write_bytes(b"\xff\xd8\xffnew")
    return ["0205.jpg"]


def delete_records(data: Input) -> list[str]:
    for part in data.parts:
        part.unlink()
    return [f"{number:03}.jpg" for number in range(COUNT)]


def move_the_input(data: Input) -> list[str]:
    moved = data.photos.with_name("moved")
    data.photos.rename(moved)
    data.photos = moved
    return [f"{number:03}.jpg" for number in range(COUNT)]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(keep_all, id="nothing is read if nothing has changed"),
        pytest.param(change_one, id="a photo with other bytes is read"),
        pytest.param(touch_one, id="a photo with another time is read"),
        pytest.param(add_and_remove, id="a new photo is read"),
        pytest.param(delete_records, id="all are read without records"),
        pytest.param(move_the_input, id="all are read in another folder"),
    ],
)
def test_a_second_run_reads_only_what_has_changed(change, data):
    assert len(data.ingest()) == COUNT
    expected = change(data)
    assert data.ingest("ingest.limit=1000") == expected
    rows = data.rows()
    shutil.rmtree(data.layout.manifests / "records-ingest")
    data.ingest()
    assert data.rows() == rows
    assert data.ingest() == []


def test_of_a_damaged_file_of_records_its_photos_alone_are_read(data):
    data.ingest()
    rows = data.rows()
    data.parts[0].write_bytes(b"PAR1")
    assert len(data.ingest()) == PART
    assert data.rows() == rows
    assert data.ingest() == []


def test_an_interrupted_run_continues_with_what_is_not_hashed(data):
    def interrupt(path: str) -> None:
        if path == "020.jpg":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        data.ingest(fail=interrupt)
    assert not data.layout.source.exists()
    assert data.ingest() == [f"{number:03}.jpg" for number in range(2 * PART, COUNT)]


def test_a_photo_that_the_store_did_not_hand_out_is_not_recorded_but_the_others_are(data):
    answers = {"020.jpg": False}
    real = read_content

    def read(photo: Photo) -> Content | TransientError:
        data.read.append(photo.path)
        if not answers.get(photo.path, True):
            answers[photo.path] = True
            return TransientError(photo.path)
        return real(data.photos, 1000, photo)

    config = data.config()
    photos = Photos(FileTree(data.photos).stamps, read, threads=8, cluster=None)
    ingest(config, data.layout, photos=photos)
    assert (data.read.count("020.jpg"), len(data.read)) == (2, COUNT + 1)
    assert data.ingest() == []


def test_a_recorded_photo_that_is_too_large_now_is_refused(data):
    (data.photos / "large.jpg").write_bytes(b"\xff\xd8\xff" + bytes(900))
    data.ingest()
    data.ingest("ingest.max_pixels=100")
    assert [row["source"] for row in data.rows() if row["reason"] == "too-large"] == ["large.jpg"]


def test_the_workers_of_a_cluster_hash_many_photos_and_record_them(data, monkeypatch, capsys):
    data.ingest()
    expected = data.rows()
    shutil.rmtree(data.layout.manifests / "records-ingest")
    monkeypatch.setattr(hashing, "HERE", 0)
    capsys.readouterr()
    ingest(data.config(), data.layout)
    assert "2 workers" in capsys.readouterr().out
    assert data.rows() == expected
    assert len(data.parts) == COUNT // PART
    ingest(data.config(), data.layout)
    assert "workers" not in capsys.readouterr().out
    assert data.ingest() == []
