"""Stores that lose answers, answer with pages or other bytes, or list late: a real S3 server behind a proxy.

Unless a test says otherwise, the store has no checksums, so that nothing else finds what is wrong.
"""

import re
import shutil

import pytest
from upath import UPath

from common import manifest
from common.config import Config, load
from common.errors import UserError
from common.layout import Layout
from common.storage import TransientError, read_bytes
from pipeline.align.run import align, plan, read_plan
from pipeline.align.shard import align_shard
from pipeline.ingest.run import ingest
from pipeline.lock import locked
from pipeline.parse.run import read_aligned
from pipeline.parse.shard import read_faces
from pipeline.runner import finished_shards
from pipeline.runner.cluster import shared_workers
from pipeline.runner.finished_shards import FinishedShards
from pipeline.runner.shard_record import ShardTask, read_record, record_path, write_record
from tests.conftest import PORTRAITS
from tests.faulty_store import FaultyStore, proxied

INPUT = "s3://answers/photos"


@pytest.fixture(scope="module")
def proxy(object_store, portraits):
    """The object store with the portraits behind a proxy, and workers that share it."""
    bucket = UPath("s3://answers")
    bucket.fs.mkdir("answers")
    bucket.fs.put(f"{portraits}/img_align_celeba/", "answers/photos/", recursive=True)
    with pytest.MonkeyPatch.context() as patch, proxied(patch) as proxy, shared_workers():
        proxy.checksums = False
        yield proxy


@pytest.fixture
def store(proxy, monkeypatch):
    """The proxy, without a fault before and after the test; this process tries again soon."""
    monkeypatch.setattr("common.retry.LONGEST_PAUSE", 0.1)
    monkeypatch.setattr("pipeline.lock.SETTLE_SECONDS", 0.1)
    proxy.faults = 0
    yield proxy
    proxy.fault = lambda request: None


def config(*settings: str) -> Config:
    own = (f"data.input={INPUT}", "data.name=d", "ingest.shard_size=16", "align.mode=none")
    return load(settings=[*own, "cluster.workers=1", "stream.retry_minutes=0.5", *settings])


@pytest.fixture(scope="module")
def undisturbed(proxy, tmp_path_factory):
    """The aligned faces of the same photos without a fault."""
    layout = Layout.at(tmp_path_factory.mktemp("undisturbed"))
    ingest(config(), layout)
    align_here(layout)
    return layout


def align_here(layout: Layout) -> None:
    """Align all shards in this process."""
    for task in plan(read_plan(layout), config(), layout):
        align_shard(task, frozenset(), lambda count: None)


def made(layout: Layout) -> dict[str, bytes]:
    folder = layout.aligned / "d"
    return {file.name: file.read_bytes() for file in folder.iterdir() if re.search(r"-0\d+\.", file.name)}


def fail(store: FaultyStore, kind: str, pattern: str, times: int = 1) -> None:
    """Let the next requests, as many as `times`, whose method and path have the pattern fail."""
    left = [kind] * times
    store.fault = lambda request: left.pop() if left and re.search(pattern, request) else None


KINDS_OF_WRITES = {
    "lock": r"PUT .*/\.lock",
    "plan": r"PUT .*source\.parquet",
    "hashes": r"PUT .*records-ingest",
    "tar": r"PUT .*-000000\.tar",
    "record": r"PUT .*-000000\.json",
    "index": r"PUT .*records-align\.json",
}


@pytest.mark.parametrize("kind", ["lost", "expired"])
@pytest.mark.parametrize("what", KINDS_OF_WRITES)
def test_a_write_that_fails_or_whose_answer_is_lost_changes_nothing(what, kind, store, undisturbed):
    layout = Layout.at(f"s3://answers/{what}-{kind}")
    fail(store, kind, KINDS_OF_WRITES[what])
    with locked(layout, 0.5):
        ingest(config(), layout)
        align(config(), layout)
    assert store.faults == 1
    assert made(layout) == made(undisturbed)
    assert manifest.read(layout.source).rows() == manifest.read(undisturbed.source).rows()
    with locked(layout):
        pass


@pytest.mark.parametrize("kind", ["expired", "page"])
@pytest.mark.parametrize("what", ["GET .*source.parquet", "GET .*(index|records).json", "(HEAD|GET) .*lock"])
def test_the_first_requests_of_a_run_are_tried_again_like_all_others(what, kind, store, undisturbed):
    layout = Layout.at("s3://answers/first")
    layout.source.write_bytes(undisturbed.source.read_bytes())
    (layout.manifests / "index.json").write_bytes(b"{}")
    (layout.manifests / ".lock").write_bytes(b'{"renewed": 0}')
    fail(store, kind, what, 2)
    with locked(layout, 0.5):
        ingest(config(), layout)
    assert manifest.read(layout.source).rows() == manifest.read(undisturbed.source).rows()


@pytest.mark.parametrize("kind", ["page", "short"])
def test_what_is_no_photo_is_waited_for_and_never_remembered(kind, store, undisturbed, tmp_path):
    layout = Layout.at(tmp_path)
    store.fault = lambda request: kind if re.search(r"GET .*\.jpg", request) else None
    with pytest.raises(UserError, match=rf"{PORTRAITS} files cannot be read .*nothing was planned"):
        ingest(config("stream.retry_minutes=0.01"), layout)
    fail(store, kind, r"GET .*\.jpg", 2 * PORTRAITS)
    ingest(config(), layout)
    assert manifest.read(layout.source).rows() == manifest.read(undisturbed.source).rows()


def test_a_page_that_really_is_stored_as_a_photo_is_refused_alone(store, tmp_path):
    folder, good = UPath("s3://answers/pages"), next(UPath(INPUT).glob("*1.jpg"))
    for name, data in (("a.jpg", b"<html>404</html>"), ("b.jpg", good.read_bytes())):
        (folder / name).write_bytes(data)
    for _ in range(2):
        ingest(config(f"data.input={folder}"), Layout.at(tmp_path))
        rows = manifest.read(Layout.at(tmp_path).source).rows()
        assert [row["reason"] for row in rows] == ["not-an-image", None]


@pytest.mark.parametrize("kind", ["page", "short", "flipped"])
def test_wrong_bytes_while_photos_are_aligned_are_read_again(kind, store, undisturbed, tmp_path):
    layout = Layout.at(tmp_path)
    shutil.copytree(undisturbed.manifests, tmp_path / "manifests")
    fail(store, kind, r"GET .*\.jpg", 5)
    align_here(layout)
    assert store.faults == 5
    assert made(layout) == made(undisturbed)
    store.fault = lambda request: "page" if ".jpg" in request else None
    with pytest.raises(TransientError, match="the store answers with other bytes"):
        align_here(layout)


def test_a_photo_that_was_hashed_wrongly_is_whole_after_the_next_run(store, tmp_path):
    layout = Layout.at(tmp_path)
    fail(store, "flipped", r"GET .*\.jpg", 3)
    changed = []
    for _ in range(2):
        ingest(config(), layout)
        align(config(), layout)
        records = [read_record(tar) for tar in layout.aligned.rglob("*.tar")]
        changed.append([row["reason"] for record in records if record for row in record.quarantined])
    assert changed == [["changed"] * 3, []]
    assert sum(len(record.samples) for record in records if record) == PORTRAITS


@pytest.fixture
def aligned(undisturbed, request):
    """An aligned tar with its record in the store."""
    tar = min((undisturbed.aligned / "d").glob("*.tar"))
    folder = UPath(f"s3://answers/{request.node.name}")
    for file in (tar, record_path(tar)):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder / tar.name


@pytest.mark.parametrize("file", ["tar", "json"])
@pytest.mark.parametrize("kind", ["page", "short", "flipped"])
def test_another_byte_in_an_aligned_tar_never_reaches_a_finished_one(kind, file, store, aligned):
    faces = list(read_faces(aligned))
    store.fault = lambda request: kind if re.search(rf"GET .*\.{file}", request) else None
    try:
        assert list(read_faces(aligned)) == faces
        assert kind == "short" or (file, kind) == ("json", "flipped")  # read on, or in what is no checksum
    except (TransientError, UserError) as error:
        assert "000000" in str(error)
    store.fault = lambda request: None
    assert list(read_faces(aligned)) == faces


@pytest.mark.parametrize("damage", ["flipped", "cut", "ended", "empty"])
def test_a_damaged_aligned_tar_on_a_disk_is_one_sentence(damage, undisturbed, tmp_path):
    shutil.copytree(undisturbed.aligned / "d", tmp_path, dirs_exist_ok=True)
    tar = min(tmp_path.glob("*.tar"))
    data = bytearray(tar.read_bytes())
    data[1000] ^= 1
    end = data.index(b"json", 5000) // 512 * 512  # the first member that begins there
    contents = {"flipped": data, "cut": data[:1500], "ended": data[:end], "empty": bytes(10240)}
    tar.write_bytes(bytes(contents[damage]))
    with pytest.raises(UserError, match=r"-000000\.tar: not what align wrote .*delete it"):
        list(read_faces(tar))


def test_a_run_finds_what_it_wrote_itself_in_a_store_that_lists_it_late(store, monkeypatch, undisturbed):
    layout = Layout.at("s3://answers/late")
    layout.source.write_bytes(undisturbed.source.read_bytes())
    monkeypatch.setattr(finished_shards, "list_folder", lambda folder: {})
    planned = read_plan(layout)
    with pytest.raises(UserError, match="run `python -m pipeline.align` first"):
        read_aligned(planned, layout)
    tars = [layout.aligned / name for name in planned.shards]
    listed = FinishedShards(layout.aligned / "d", layout, "late")
    with pytest.raises(TransientError, match="is written, but not there yet"):
        listed.update(tars[:1])
    for tar in tars:
        tar.write_bytes(b"tar")
        write_record(ShardTask(tar, "inputs", "code", 1), [{"key": "k"}], [])
    listed.update(tars[:1])
    assert listed.shards[tars[0].name] == read_aligned(planned, layout).shards[tars[0].name]


def test_a_page_instead_of_a_record_is_no_missing_shard(store, aligned):
    store.fault = lambda request: "page" if ".json" in request else None
    for read in (lambda: read_record(aligned), lambda: read_bytes(record_path(aligned))):
        with pytest.raises(TransientError, match=r"000000\.json: the store answers with a page"):
            read()


def test_workers_of_a_run_that_lost_its_lock_write_nothing_more(store):
    layout = Layout.at("s3://answers/taken")
    lock, other = layout.manifests / ".lock", b'{"token": "other", "renewed": 9e9}'

    def take_over(request: str) -> None:
        if ".jpg" in request:
            lock.write_bytes(other)

    with locked(layout, 0.5):
        ingest(config(), layout)
        store.fault = take_over
        with pytest.raises(UserError, match=r"another run has taken over s3://answers/taken"):
            align(config(), layout)
    assert not list(layout.aligned.rglob("*-0*"))
    assert lock.read_bytes() == other
