"""No run deletes what it was not asked to, and an output has one run at a time."""

import heapq
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
from upath import UPath

from common.errors import UserError
from common.files import write_text
from common.layout import Layout
from common.storage import TransientError
from pipeline import lock
from pipeline.ingest.run import ingest
from pipeline.lock import EXPIRY_SECONDS, NAME, StoredLock, locked
from pipeline.runner.finished_shards import FinishedShards
from pipeline.runner.shard_record import ShardTask, record_path, write_record
from tests.commands import run_command
from tests.test_small_changes import PHOTOS, Input


@pytest.fixture
def data(tmp_path):
    """A planned input with finished shards, in which 042.jpg and 043.jpg have no sample."""
    data = Input(tmp_path)
    data.stale()
    (data.layout.shards / "d").mkdir()
    for name in {row["shard"] for row in data.rows()}:
        (data.layout.shards / name).touch()
        refused = [{"source": f"{number:03}.jpg", "reason": "truncated", "detail": ""} for number in (42, 43)]
        write_record(ShardTask(data.layout.shards / name, "inputs", "code", 4), [{"key": "k"}], refused)
    return data


def test_a_limit_on_a_finished_output_is_refused_and_changes_nothing_nor_does_a_command_while_it_is_in_use(
    tmp_path, data
):
    before = data.layout.source.read_bytes()
    limited = data.config("ingest.limit=40")
    with pytest.raises(UserError, match="158 of 198 photos of the finished shards .* --prune deletes"):
        ingest(limited, data.layout)
    with locked(data.layout):
        done = run_command("pipeline.ingest", "--input", data.photos, "--output", tmp_path / "out")
    assert done.returncode == 1 and f"is in use by process {os.getpid()} on" in done.stderr
    assert data.layout.source.read_bytes() == before
    ingest(limited, data.layout, prune=True)
    assert len(data.rows()) == 40


def test_a_photo_that_was_renamed_or_replaced_or_had_no_sample_is_not_lost_but_one_that_vanished_is(data):
    (data.photos / "001.jpg").rename(data.photos / "moved.jpg")
    (data.photos / "000.jpg").write_bytes(b"\xff\xd8\xffretouched")
    (data.photos / "042.jpg").unlink()
    (data.photos / "043.jpg").write_bytes(b"no image")
    ingest(data.config(), data.layout)
    reasons = {row["source"]: row["reason"] for row in data.rows() if row["reason"]}
    without = "label-without-image"
    assert reasons == {"001.jpg": without, "042.jpg": without, "043.jpg": "not-an-image"}
    (data.photos / "043.jpg").unlink()  # as the message about it advises
    ingest(data.config(), data.layout)
    assert sum(row["key"] is not None for row in data.rows()) == PHOTOS - 2
    (data.photos / "199.jpg").unlink()
    with pytest.raises(UserError, match=r"1 of \d+ photos .* such as 199\.jpg"):
        ingest(data.config(), data.layout)


def test_unplanned_shards_are_deleted_on_request_alone(tmp_path):
    tars = [tmp_path / f"train-00000{number}.tar" for number in range(3)]
    for tar in tars:
        tar.touch()
        record_path(tar).touch()

    def remove(prune: bool) -> None:
        FinishedShards(tmp_path, Layout.at(tmp_path), "parse").remove_unplanned({tars[0].name}, prune=prune)

    with pytest.raises(UserError, match=r"2 shards that are not in the plan, such as train-000001\.tar"):
        remove(prune=False)
    write_record(ShardTask(tars[2], "inputs", "code", 1), [], [])  # without a sample
    with pytest.raises(UserError, match=r"1 shards that are not in the plan, such as train-000001\.tar"):
        remove(prune=False)
    assert len(list(tmp_path.iterdir())) == 6
    remove(prune=True)
    assert sorted(tmp_path.iterdir()) == [record_path(tars[0]), tars[0]]


HOLD = """
import sys, time
from pipeline.lock import Layout, locked
with locked(Layout.at(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_run_is_told_who_has_the_output_and_a_killed_one_holds_nothing(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as holder:
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


@pytest.fixture
def remote(object_store, request):
    """An output of its own in the object store."""
    UPath("s3://locks").fs.mkdirs("locks", exist_ok=True)
    return Layout.at(f"s3://locks/{request.node.name}")


def test_an_output_at_an_object_store_has_one_run_too(remote, monkeypatch):
    monkeypatch.setattr(lock, "RENEW_SECONDS", 0.05)
    file = remote.manifests / NAME
    with locked(remote):
        first = file.fs.cat_file(file.path)
        with pytest.raises(UserError, match=f"is in use by process {os.getpid()} on"), locked(remote):
            pass
        wait_until(lambda: file.fs.cat_file(file.path) != first)
    assert not file.exists()
    with locked(remote):
        now = time.time()
        monkeypatch.setattr("pipeline.lock.time.time", lambda: now + 70)
        with pytest.raises(TransientError, match="not renewed for 70 s"):
            write_text(remote.manifests / "late", "x")


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 600
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_one_of_two_runs_takes_over_what_a_dead_one_left_at_an_object_store(remote, monkeypatch):
    owner = {"host": "gone", "process": 1, "command": "-m pipeline.parse", "since": "2026-01-01"}
    old = {**owner, "renewed": time.time() - EXPIRY_SECONDS - 1}
    (remote.manifests / NAME).write_bytes(json.dumps(old).encode())
    monkeypatch.setattr(lock, "_owner", lambda: {**owner, "process": threading.get_ident()})
    refused = threading.Event()

    def run(_: int) -> str:
        try:
            with locked(remote):
                refused.wait(600)
                return "owner"
        except UserError:
            refused.set()
            return "refused"

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(run, range(2))) == ["owner", "refused"]


def test_a_run_that_lost_its_lock_writes_no_more_and_leaves_the_other_s_lock(remote, monkeypatch, capsys):
    monkeypatch.setattr(lock, "RENEW_SECONDS", 0.05)
    file = remote.manifests / NAME
    other = json.dumps({"host": "other", "process": 1, "renewed": time.time()}).encode()
    with locked(remote):
        write_text(remote.manifests / "before", "x")
        file.write_bytes(other)
        with pytest.raises(UserError, match="another run has taken over s3://locks"):
            write_text(remote.manifests / "after", "x")
        # Which of the two depends on whether it is seen before or while the lock is renewed.
        wait_until(lambda: bool(re.search("another run has taken over|in use by", capsys.readouterr().err)))
    assert file.read_bytes() == other
    assert [(remote.manifests / name).exists() for name in ("before", "after")] == [True, False]


@pytest.mark.parametrize("content", [b"<html>Sign in</html>", b"{}", b"[1]", b""])
def test_what_is_no_lock_is_not_taken_over(content, remote):
    (remote.manifests / NAME).write_bytes(content)
    with pytest.raises(TransientError, match=r"\.lock: the store answers with"), locked(remote):
        pass
    assert (remote.manifests / NAME).read_bytes() == content


class Simulation:
    """A simulated clock and a simulated store, which compares tags, and loses requests and answers.

    Whatever takes time waits in a queue, and one thread runs at a time, so a seed gives one schedule.
    """

    protocol = ("s3",)

    def __init__(self, seed: int) -> None:
        self.random, self.now = random.Random(seed), 0.0
        self._queue: list[tuple[float, int, threading.Event]] = []
        self._turn, self._count = threading.Semaphore(0), 0
        self._content: bytes | None = None
        self._version = 0
        self.events: list[tuple[str, str]] = []

    def start(self, action: Callable[[], None]) -> None:
        def run() -> None:
            self.sleep(0.0, first=True)
            try:
                action()
            finally:
                self._turn.release()

        thread = threading.Thread(target=run, daemon=True)
        thread.skew = self.random.uniform(0, 20)
        before = self._count
        thread.start()
        while self._count == before:
            time.sleep(0)

    def run(self) -> None:
        while self._queue:
            self.now, _, event = heapq.heappop(self._queue)
            event.set()
            self._turn.acquire()

    def time(self) -> float:
        return self.now + threading.current_thread().skew

    def sleep(self, seconds: float, first: bool = False) -> None:
        event = threading.Event()
        heapq.heappush(self._queue, (self.now + seconds, self._count, event))
        self._count += 1
        if not first:
            self._turn.release()
        event.wait()

    def _request(self, change: Callable[[], Any]) -> Any:
        self.sleep(self.random.choice([0.1, 1, 5, 5, 90]) * self.random.random())
        fate = self.random.random()
        if fate < 0.15:
            raise OSError("the request was lost")
        result = change()
        if fate < 0.3:
            raise OSError("the answer was lost")
        return result

    def info(self, path: str) -> dict[str, str]:
        return {"ETag": str(self._request(lambda: self._found() and self._version))}

    def cat_file(self, path: str, start: int) -> bytes:
        return bytes(self._request(self._found))

    def _found(self) -> bytes:
        if self._content is None:
            raise FileNotFoundError
        return self._content

    def pipe_file(self, path: str, data: bytes, mode: str = "", IfMatch: str = "") -> None:
        def write() -> None:
            if (mode and self._content is not None) or (IfMatch and IfMatch != str(self._version)):
                raise OSError("PreconditionFailed")
            self._content, self._version = data, self._version + 1

        self._request(write)

    def unlink(self) -> None:
        self.sleep(35 * self.random.random())
        self._content = None


def run_with_lock(simulation: Simulation, name: str) -> None:
    """A run that writes up to five times, each time within 35 s, and ends or dies; six times in a row."""
    path = SimpleNamespace(fs=simulation, path="lock", parent="output", unlink=simulation.unlink)
    for attempt in range(6):
        simulation.sleep(200 * simulation.random.random())
        held = StoredLock(cast(UPath, path), {"token": f"{name}{attempt}"})
        try:
            held.acquire()
        except (UserError, OSError):
            continue
        simulation.events.append(("holds", held.owner["token"]))
        ended = threading.Event()  # whose waiting takes simulated time
        ended.wait = lambda seconds, ended=ended: simulation.sleep(seconds) or ended.is_set()
        simulation.start(partial(held.renew_until, ended))
        for _ in range(5):
            simulation.sleep(40 * simulation.random.random())
            try:
                held.check()
            except UserError:
                break
            except OSError:
                continue
            simulation.sleep(35 * simulation.random.random())
            simulation.events.append(("writes", held.owner["token"]))
        ended.set()
        if simulation.random.random() < 0.5:
            held.release()


def test_two_runs_never_hold_one_output_in_200_random_schedules_of_a_simulated_store(monkeypatch):
    holders, writes = 0, 0
    for seed in range(200):
        simulation = Simulation(seed)
        monkeypatch.setattr(lock, "time", simulation)
        for name in "abc":
            simulation.start(partial(run_with_lock, simulation, name))
        simulation.run()
        holder = ""
        for event, token in simulation.events:
            holder = token if event == "holds" else holder
            assert token == holder, f"schedule {seed}: {token} writes while {holder} holds the output"
            holders, writes = holders + (event == "holds"), writes + (event == "writes")
    assert holders > 300
    assert writes > 400
