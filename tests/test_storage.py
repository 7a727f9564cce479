"""Shards at an object store: a real S3 server on the loopback, real shards, the ordinary commands."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from upath import UPath

from common import manifest
from common.errors import UserError
from common.layout import Layout
from common.pipeline_config import Stream
from common.storage import Address, address
from tests.commands import run_command
from tests.conftest import run_pipeline
from training.data.loader import load as stream
from training.data.sampler import planned_batches
from training.data.samples import read_samples
from training.data.shard_cache import OPEN_AT_MOST, ShardCache


@pytest.fixture(scope="module")
def bucket(object_store):
    """An empty bucket of the object store."""
    root = UPath("s3://faces", use_listings_cache=False)
    root.fs.mkdir("faces")
    return root


@pytest.fixture(scope="module")
def remote(bucket, shards):
    """The shared shards and manifests, copied to the bucket."""
    for folder in (shards.shards / "portraits", shards.manifests):
        bucket.fs.put(str(folder), f"faces/copied/{folder.name}", recursive=True)
    return Layout.at(bucket / "copied")


def cached_in(folder: Path, capacity: float = 1e9, retry_minutes: float = 0.0) -> Stream:
    return Stream(
        cache=str(folder), cache_gigabytes=capacity / 1e9, retry_minutes=retry_minutes, max_broken=0
    )


def tars(folder: Address) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.tar")}


def test_the_pipeline_reads_from_and_writes_to_an_object_store_and_makes_the_same_bytes(
    bucket, portraits, shards, pipeline_config, workers, capsys
):
    bucket.fs.put(str(portraits), "faces/portraits", recursive=True)
    data = pipeline_config.data.model_copy(update={"input": "s3://faces/portraits"})
    config, layout = pipeline_config.model_copy(update={"data": data}), Layout.at("s3://faces/made")
    for _ in range(2):
        run_pipeline(config, layout)
    count = len(tars(shards.shards / "portraits"))
    assert f"{count} of {count} shards were up to date" in capsys.readouterr().out.splitlines()[-1]
    for mine, other in ((layout.shards, shards.shards), (layout.aligned, shards.aligned)):
        assert tars(mine / "portraits") == tars(other / "portraits")
    for mine, other in ((layout.samples, shards.samples), (layout.quarantine, shards.quarantine)):
        assert mine.read_bytes() == other.read_bytes()
    found, expected = manifest.read(layout.source), manifest.read(shards.source)
    assert found.rows() == expected.rows()
    assert found.metadata["root"] == "s3://faces/portraits"


def test_training_streams_the_same_batches_from_an_object_store_and_runs_there(remote, shards, tmp_path):
    cached, batches = cached_in(tmp_path / "cache"), []
    for layout in (remote, shards):
        samples = read_samples(layout, ("train", "val", "test"))
        planned = planned_batches(samples.shards, seed=1, partitions=2, batch_size=5, start=1, stop=9)
        batches.append(list(stream(samples, planned, {"jpg", "mask.png"}, 2, cached)))
    for mine, other in zip(*batches, strict=True):
        assert np.array_equal(mine.images, other.images) and np.array_equal(mine.masks, other.masks)
    assert len(list(tmp_path.rglob("*.tar"))) == len({*samples.shards})
    small = ("network.width=8", "network.input_size=32", "pretrain.steps=2", "pretrain.batch_size=4")
    settings = [text for setting in small for text in ("--set", setting)]
    flags = ("--stage", "pretrain", "--shards", "s3://faces/copied", "--output", tmp_path)
    assert run_command("training.run", *flags, *settings).returncode == 0
    assert (tmp_path / "pretrain" / "metrics.json").is_file()


def test_the_cache_stays_within_its_bound_and_a_shard_that_was_dropped_comes_back(remote, tmp_path):
    names = sorted({*read_samples(remote, ("train", "val", "test")).shards})
    sizes = {name: (remote.shards / name).stat().st_size for name in names}
    with ShardCache(remote.shards, cached_in(tmp_path, max(sizes.values()))) as cache:
        for name in names * 2:
            with cache.open(name) as descriptor:
                assert os.pread(descriptor, sizes[name], 0) == (remote.shards / name).read_bytes()
            assert sum(path.stat().st_size for path in tmp_path.rglob("*.tar")) <= max(sizes.values())


@pytest.mark.parametrize("caches", [["a"] * 4, ["a", "a", "b", "b"]], ids=["one machine", "two machines"])
def test_four_ranks_download_each_of_eight_shards_once(caches, bucket, tmp_path):
    shards = [f"train-{number:06d}.tar" for number in range(8) for _ in range(10)]
    for name in sorted(set(shards)):
        (bucket / "eight" / name).write_bytes(name.encode())

    def read(rank: int) -> None:
        with ShardCache(bucket / "eight", cached_in(tmp_path / caches[rank])) as cache:
            for batch in planned_batches(shards, 0, 8, 8, 0, 30, rank, 4):
                for sample in batch:
                    with cache.open(shards[sample]) as descriptor:
                        assert os.pread(descriptor, 100, 0) == shards[sample].encode()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read, range(4)))
    assert len(list(tmp_path.glob("*/*/*.tar"))) == 8  # the caches are large, so each file is one download


def test_a_rewritten_shard_is_not_served_from_the_cache_and_a_missing_one_is_named(bucket, tmp_path):
    shard = bucket / "rewritten" / "train-000000.tar"
    for content in (b"first", b"second"):
        shard.write_bytes(content)
        with ShardCache(shard.parent, cached_in(tmp_path)) as cache:
            with cache.open(shard.name) as descriptor:
                assert os.pread(descriptor, 100, 0) == content
            message = r"s3://faces/rewritten/train-000099.tar: cannot be read"
            with pytest.raises(UserError, match=message), cache.open("train-000099.tar"):
                pass


def test_a_download_is_tried_again_and_one_that_failed_for_good_begins_anew_when_next_needed(
    remote, tmp_path, monkeypatch, capsys
):
    name = read_samples(remote, ("train",)).shards[0]
    real, left = remote.shards.fs.get_file, []

    def get_file(source: str, target: str) -> None:
        if left:
            Path(target).write_bytes(b"half of it")
            raise left.pop()
        real(source, target)

    def read(minutes: float) -> bytes:
        stream = cached_in(tmp_path / str(minutes), retry_minutes=minutes)
        with ShardCache(remote.shards, stream) as cache:
            if not minutes:
                with pytest.raises(UserError, match="ExpiredToken"), cache.open(name):
                    pass
            cache.prefetch([name])
            with cache.open(name) as descriptor:
                return os.pread(descriptor, 10**8, 0)

    monkeypatch.setattr(remote.shards.fs, "get_file", get_file)
    monkeypatch.setattr("common.retry.time.sleep", lambda seconds: None)
    for minutes, failures in ((5, 3), (0, 1)):
        left += [PermissionError("ExpiredToken")] * failures
        assert read(minutes) == (remote.shards / name).read_bytes()
    assert capsys.readouterr().err.count("ExpiredToken; trying again in") == 3


def test_many_local_shards_never_run_out_of_descriptors(tmp_path):
    for number in range(2000):
        (tmp_path / f"{number}.tar").write_bytes(b"x")

    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = open_files()
    with ShardCache(tmp_path, cached_in(tmp_path)) as cache:
        for number in range(2000):
            with cache.open(f"{number}.tar") as descriptor:
                assert os.pread(descriptor, 1, 0) == b"x"
        assert open_files() < before + OPEN_AT_MOST + 100


@pytest.mark.parametrize("text", ["nothing://bucket/x", "s4://bucket/x"])
def test_an_address_of_an_unknown_protocol_is_a_clear_error(text):
    with pytest.raises(UserError, match="cannot be reached"):
        address(text)
