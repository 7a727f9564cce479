"""No run deletes what it was not asked to, and an output has one run at a time."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from upath import UPath

from common.errors import UserError
from common.layout import Layout
from pipeline import lock
from pipeline.ingest.run import ingest
from pipeline.lock import EXPIRY_SECONDS, NAME, locked
from pipeline.runner.finished_shards import FinishedShards
from pipeline.runner.shard_record import record_path
from tests.test_small_changes import PHOTOS, Input


@pytest.fixture
def data(tmp_path: Path) -> Input:
    """A planned input with a finished shard."""
    data = Input(tmp_path)
    folder = data.layout.shards / "d"
    folder.mkdir()
    (folder / "train-000000.tar").touch()
    return data


def test_a_limit_on_a_finished_output_is_refused_and_changes_nothing(data: Input) -> None:
    before = data.layout.source.read_bytes()
    limited = data.config.model_copy(update={"ingest": data.config.ingest.model_copy(update={"limit": 40})})
    with pytest.raises(UserError, match="160 of 200 photos of the finished shards .* --prune deletes"):
        ingest(limited, data.layout)
    assert data.layout.source.read_bytes() == before
    ingest(limited, data.layout, prune=True)
    assert len(data.rows()) == 40


def test_a_photo_that_was_renamed_or_replaced_is_not_lost_but_one_that_vanished_is(data: Input) -> None:
    (data.photos / "001.jpg").rename(data.photos / "moved.jpg")
    (data.photos / "000.jpg").write_bytes(b"retouched")
    ingest(data.config, data.layout)
    (data.photos / "199.jpg").unlink()
    with pytest.raises(UserError, match=rf"1 of {PHOTOS} photos .* such as 199\.jpg"):
        ingest(data.config, data.layout)


def test_a_plan_without_finished_shards_is_replaced(tmp_path: Path) -> None:
    data = Input(tmp_path)
    (data.photos / "199.jpg").unlink()
    ingest(data.config, data.layout)
    assert len(data.rows()) == PHOTOS - 1


def test_unplanned_shards_are_deleted_on_request_alone(tmp_path: Path) -> None:
    tars = [tmp_path / f"train-00000{number}.tar" for number in range(3)]
    for tar in tars:
        tar.touch()
        record_path(tar).touch()
    with pytest.raises(UserError, match=r"2 shards that are not in the plan, such as train-000001\.tar"):
        FinishedShards(tmp_path, tmp_path / "index").remove_unplanned({tars[0].name}, prune=False)
    assert len(list(tmp_path.iterdir())) == 6
    FinishedShards(tmp_path, tmp_path / "index").remove_unplanned({tars[0].name}, prune=True)
    assert sorted(tmp_path.iterdir()) == [record_path(tars[0]), tars[0]]


HOLD = """
import sys, time
from pipeline.lock import Layout, locked
with locked(Layout.at(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_run_is_told_who_has_the_output_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline()
        with (
            pytest.raises(UserError, match=f"is in use by process {holder.pid} on .* since 20"),
            locked(Layout.at(tmp_path)),
        ):
            pass
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    with locked(Layout.at(tmp_path)):
        pass


def test_a_command_refuses_an_output_that_is_in_use(tmp_path: Path, data: Input) -> None:
    command = [
        sys.executable,
        "-m",
        "pipeline.ingest",
        "--input",
        str(data.photos),
        "--output",
        str(tmp_path / "out"),
    ]
    with locked(data.layout):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"is in use by process {os.getpid()} on" in done.stderr


@pytest.fixture
def remote(object_store: None, request: pytest.FixtureRequest) -> Layout:
    """An output of its own in the object store."""
    bucket = UPath("s3://locks", use_listings_cache=False)
    if not bucket.fs.exists("locks"):
        bucket.fs.mkdir("locks")
    return Layout.at(f"s3://locks/{request.node.name}")


def test_an_output_at_an_object_store_has_one_run_too(
    remote: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "RENEW_SECONDS", 0.05)
    file = remote.manifests / NAME
    assert isinstance(file, UPath)
    with locked(remote):
        first = file.fs.cat_file(file.path)
        with pytest.raises(UserError, match=f"is in use by process {os.getpid()} on"), locked(remote):
            pass
        deadline = time.monotonic() + 30
        while file.fs.cat_file(file.path) == first:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert not file.exists()
    with locked(remote):
        pass


def test_one_of_two_runs_takes_over_what_a_dead_one_left_at_an_object_store(
    remote: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = {"host": "gone", "process": 1, "command": "-m pipeline.parse", "since": "2026-01-01"}
    (remote.manifests / NAME).write_bytes(
        json.dumps({**owner, "renewed": time.time() - EXPIRY_SECONDS - 1}).encode()
    )
    monkeypatch.setattr(lock, "_owner", lambda: {**owner, "process": threading.get_ident()})
    outcomes: list[str] = []
    done = threading.Event()

    def run() -> None:
        try:
            with locked(remote):
                outcomes.append("owner")
                done.wait(30)
        except UserError:
            outcomes.append("refused")
        if len(outcomes) == 2:
            done.set()

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["owner", "refused"]


def test_an_owner_that_slept_past_its_expiry_does_not_take_the_lock_back(
    remote: Layout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lock, "RENEW_SECONDS", 0.05)
    file = remote.manifests / NAME
    other = json.dumps({"host": "other", "process": 1, "renewed": time.time()}).encode()
    with locked(remote):
        file.write_bytes(other)
        time.sleep(0.5)
        assert file.read_bytes() == other
    assert file.read_bytes() == other
    assert "another run has taken over this output" in capsys.readouterr().err


def test_a_lock_that_changes_after_it_was_read_is_not_replaced(remote: Layout) -> None:
    file = remote.manifests / NAME
    assert isinstance(file, UPath)
    file.write_bytes(b"{}")

    def replaced_meanwhile(text: str) -> bool:
        file.write_bytes(b'{"renewed": 1}')
        return True

    assert not lock._replace(file, {"process": 1}, replaced_meanwhile)
    assert file.read_bytes() == b'{"renewed": 1}'
    assert lock._replace(file, {"process": 1}, lambda text: True)
