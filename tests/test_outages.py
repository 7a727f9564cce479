"""Stores that fail for a while: a real S3 server behind a proxy that answers 500, 503 or late, or is down."""

import re
import threading

import pytest
from upath import UPath

from common import manifest
from common.config import Config, load
from common.errors import UserError
from common.layout import Layout
from common.photo import Refused
from common.storage import TransientError
from pipeline.align.run import align, plan, read_plan
from pipeline.align.shard import align_shard
from pipeline.ingest.run import ingest
from pipeline.runner.cluster import shared_workers
from pipeline.runner.prefetch import read_ahead
from pipeline.runner.shard_record import read_record
from pipeline.source import read_source
from tests.conftest import PORTRAITS
from tests.faulty_store import proxied

FAULTS = ("503", "expired")
INPUT = "s3://outages/photos"


@pytest.fixture(scope="module")
def proxy(object_store, portraits):
    """The object store with the portraits behind a proxy, and workers that share it."""
    bucket = UPath("s3://outages")
    bucket.fs.mkdir("outages")
    bucket.fs.put(f"{portraits}/", "outages/photos/", recursive=True)
    with pytest.MonkeyPatch.context() as patch, proxied(patch) as proxy, shared_workers():
        yield proxy


@pytest.fixture
def store(proxy, monkeypatch):
    """The proxy, without a fault before and after the test; this process tries again soon."""
    monkeypatch.setattr("common.retry.LONGEST_PAUSE", 0.1)
    proxy.faults = 0
    yield proxy
    proxy.fault = lambda path: None


def config(*settings: str) -> Config:
    own = (f"data.input={INPUT}", "data.name=portraits", "ingest.shard_size=8", "cluster.workers=1")
    return load(settings=[*own, "quarantine.max_fraction=0", *settings])


def photo(path: str) -> bool:
    return path.endswith(".jpg")


def rows(layout: Layout) -> list[dict[str, object]]:
    return manifest.read(layout.source).rows()


def aligned(layout: Layout) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in sorted((layout.aligned / "portraits").iterdir())
        if path.suffix in (".tar", ".json")
    }


@pytest.fixture(scope="module")
def undisturbed(object_store, portraits, tmp_path_factory):
    """What the same photos become without a fault, from a local folder."""
    layout = Layout.at(tmp_path_factory.mktemp("undisturbed"))
    local = config(f"data.input={portraits}")
    ingest(local, layout)
    align(local, layout)
    return layout, aligned(layout)


@pytest.mark.parametrize("kind", [*FAULTS, "slow", "refused"])
def test_an_outage_while_photos_are_listed_hashed_or_aligned_is_waited_for(
    kind, store, undisturbed, tmp_path
):
    layout = Layout.at(tmp_path)
    for stage in (ingest, align):
        store.faults = 0
        if kind == "refused":
            store.stop()
            threading.Timer(3, store.start).start()
        elif kind == "slow":
            store.fault = lambda path: "slow" if path.endswith("01.jpg") else None
        else:
            store.fault = lambda path: kind if photo(path) and store.faults < 4 else None
        stage(config(), layout)
        assert store.faults == (4 if kind in FAULTS else 0)
    assert rows(layout) == rows(undisturbed[0])
    assert aligned(layout) == undisturbed[1]


def test_a_photo_is_one_request_when_it_is_hashed_and_when_it_is_aligned(store, tmp_path):
    requested: list[str] = []
    store.fault = lambda path: requested.append(path) if photo(path) else None
    ingest(config(), Layout.at(tmp_path))
    assert len(requested) == len(set(requested)) == PORTRAITS
    ingest(config(), Layout.at(tmp_path))
    assert len(requested) == PORTRAITS
    align(config("align.mode=none"), Layout.at(tmp_path))
    assert len(requested) == 2 * PORTRAITS


@pytest.mark.parametrize(
    ("kind", "file", "error", "message"),
    [
        ("expired", "3.*jpg", UserError, r"files cannot be read .*Forbidden.*nothing was planned"),
        ("503", "list_attr", OSError, "Service Unavailable"),  # no data set without labels
    ],
)
def test_an_outage_that_lasts_ends_ingest_without_a_plan(kind, file, error, message, store, tmp_path):
    store.fault = lambda path: kind if re.search(file, path) else None
    with pytest.raises(error, match=message):
        ingest(config("stream.retry_minutes=0.02"), Layout.at(tmp_path))
    assert not Layout.at(tmp_path).source.exists()


def test_a_fault_is_no_verdict_on_a_photo_but_its_absence_is(store, tmp_path):
    root, names = UPath(INPUT), ("img_align_celeba/000001.jpg", "img_align_celeba/gone.jpg")
    assert read_source(root, names[0])
    for kind in FAULTS:
        store.fault = lambda path, kind=kind: kind if photo(path) else None
        for name in names:
            with pytest.raises(TransientError, match=name):
                read_source(root, name)
    store.fault = lambda path: None
    store.stop()
    for place in (root, UPath("s3://no-such-bucket/photos"), tmp_path):  # no network, bucket or mounted disk
        with pytest.raises(TransientError):
            read_source(place, names[0])
        if place == root:
            store.start()
    (tmp_path / "2.jpg").touch()
    for place in (root, tmp_path):
        with pytest.raises(Refused, match="the file does not exist"):
            read_source(place, names[1])


def test_a_token_that_expires_fails_its_shards_alone_and_the_next_run_repairs(store, undisturbed, tmp_path):
    layout = Layout.at(tmp_path)
    ingest(config(), layout)
    last = max(str(row["shard"]) for row in rows(layout))
    victim = next(str(row["source"]) for row in rows(layout) if row["shard"] == last)
    store.fault = lambda path: "expired" if victim in path else None
    with pytest.raises(UserError, match=rf"1 shards cannot be made.*{last}.*Forbidden"):
        align(config("stream.retry_minutes=0.02"), layout)
    assert read_record(layout.aligned / last) is None
    assert aligned(layout).items() < undisturbed[1].items()
    store.fault = lambda path: None
    align(config(), layout)
    assert aligned(layout) == undisturbed[1]
    records = [read_record(tar) for tar in layout.aligned.rglob("*.tar")]
    assert sum(len(record.samples) for record in records if record) == PORTRAITS


def test_photos_are_read_ahead_of_a_slow_store_and_give_the_same_bytes(store, portraits, tmp_path):
    reading, lock, several = 0, threading.Lock(), threading.Event()

    def late(path: str) -> None:
        nonlocal reading
        if photo(path):
            with lock:
                reading += 1
                if reading > 4:
                    several.set()
            several.wait(60)
            with lock:
                reading -= 1

    made = {}
    for name, root in (("local", str(portraits)), ("remote", INPUT)):
        settings, layout = config(f"data.input={root}", "align.mode=none"), Layout.at(tmp_path / name)
        ingest(settings, layout)
        store.fault = late
        for task in plan(read_plan(layout), settings, layout):
            align_shard(task, frozenset(), lambda count: None)
        store.fault = lambda path: None
        made[name] = aligned(layout)
    assert made["local"] == made["remote"]
    assert several.is_set()


def test_what_is_read_ahead_is_bounded_in_order_and_may_fail():
    begun: list[int] = []

    def read(number: int) -> bytes:
        begun.append(number)
        if number == 5:
            raise TransientError("5")
        return bytes(10)

    ahead = read_ahead(read, range(100), threads=4, most=25)
    first, data = next(ahead)
    assert (first, data.result(), len(begun) <= 4) == (0, bytes(10), True)
    rest = list(ahead)
    assert [number for number, _ in rest] == list(range(1, 100))
    assert [number for number, future in rest if future.exception()] == [5]
