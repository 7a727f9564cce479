"""Which finished shards are made again: those of other inputs, and those of other code unless accepted."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from s3fs import S3FileSystem
from upath import UPath

from common.freshness import imported_modules
from pipeline.runner.finished_shards import FinishedShards
from pipeline.runner.quarantine import Refusals
from pipeline.runner.shard_record import ShardTask, read_record, record_path, write_record
from pipeline.runner.shard_runner import stale_tasks
from tests.faulty_store import FaultyStore

SHARDS = 40


@pytest.fixture
def counted_store(object_store: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyStore]:
    """The object store behind a proxy that counts requests."""
    host, port = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://").split(":")
    proxy = FaultyStore(host, int(port))
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    S3FileSystem.clear_instance_cache()
    yield proxy
    proxy.stop()
    S3FileSystem.clear_instance_cache()


def shard(folder: Path, fingerprint: str, code: str) -> Path:
    tar = folder / "train-000000.tar"
    tar.write_bytes(b"tar")
    write_record(ShardTask(tar, fingerprint, code, 1), [], [])
    return tar


@pytest.mark.parametrize(
    ("fingerprint", "code", "any_code", "stale"),
    [
        ("inputs", "code", False, False),
        ("inputs", "older", False, True),
        ("inputs", "older", True, False),
        ("others", "code", False, True),
        ("others", "code", True, True),
    ],
)
def test_other_inputs_are_always_stale_and_other_code_unless_it_is_accepted(
    fingerprint: str,
    code: str,
    any_code: bool,
    stale: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    task = ShardTask(shard(tmp_path, fingerprint, code), "inputs", "code", 1)
    finished = FinishedShards(tmp_path, tmp_path / "index.json")
    assert stale_tasks("parse", [task], finished, Refusals(1, 1.0), any_code) == ([task] if stale else [])
    notice = capsys.readouterr().out
    if fingerprint == "inputs" and code != "code":
        verdict = "kept" if any_code else "made again; --any-code keeps them"
        assert notice == f"parse: 1 shards that other code made are {verdict}\n"
    else:
        assert not notice


def test_a_record_of_another_format_is_none(tmp_path: Path) -> None:
    tar = tmp_path / "train-000000.tar"
    tar.write_bytes(b"tar")
    for record in ('{"fingerprint": "f", "samples": [], "quarantined": []}', "[]", "no JSON"):
        record_path(tar).write_text(record)
        assert read_record(tar) is None


@pytest.mark.parametrize("module", ["pipeline.align.shard", "pipeline.parse.shard"])
def test_the_bytes_of_a_shard_depend_on_no_setting_of_the_trainer_and_not_on_the_runner(module: str) -> None:
    names = {path.as_posix() for path in imported_modules(module)}
    assert "common/shards.py" in names
    assert not names & {"common/config.py", "common/weights.py", "pipeline/runner/shard_runner.py"}
    # The int8 parser is calibrated on painted portraits, so the bytes of its masks depend on them.
    foreign = ("training/",) if module == "pipeline.parse.shard" else ("training/", "synthetic/")
    assert not any(name.startswith(foreign) for name in names)


def test_a_run_with_nothing_to_do_asks_a_store_a_few_times_whatever_the_number_of_shards(
    counted_store: FaultyStore,
) -> None:
    root = UPath("s3://records")
    root.fs.mkdir("records")
    folder, index = root / "aligned/d", root / "manifests/records.json"
    tars = [folder / f"train-{number:06}.tar" for number in range(SHARDS)]
    for number, tar in enumerate(tars):
        tar.write_bytes(b"tar")
        write_record(ShardTask(tar, f"f{number}", "code", 1), [{"key": "k"}] * number, [])

    def requests(action: Callable[[], object]) -> int:
        before = counted_store.requests
        action()
        return counted_store.requests - before

    assert requests(lambda: [read_record(tar) for tar in tars]) >= 2 * SHARDS
    assert requests(lambda: FinishedShards(folder, index).update([])) >= SHARDS
    assert requests(lambda: FinishedShards(folder, index).update([])) <= 5
    write_record(ShardTask(tars[7], "other", "code", 1), [], [])
    assert requests(lambda: FinishedShards(folder, index)) <= 5
    finished = FinishedShards(folder, index)
    assert [shard and (shard.made_from["inputs"], shard.samples) for shard in map(finished.get, tars)] == [
        ("other", 0) if number == 7 else (f"f{number}", number) for number in range(SHARDS)
    ]
    tars[9].unlink()
    assert FinishedShards(folder, index).get(tars[9]) is None
