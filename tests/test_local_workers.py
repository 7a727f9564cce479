"""Processes on this machine: how many, what each sees, how they start, and work ahead of each other."""

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from common.config import load
from common.errors import UserError
from common.fork_server import start_fork_server
from common.parsing.parser import Parsed, SplitOnMemoryError
from common.pipeline_config import Cluster
from pipeline.runner import cluster as runner
from pipeline.runner.cluster import SETTLE_SECONDS, connect, no_model, shared_workers
from pipeline.runner.local_workers import PROCESS_BYTES, local_workers, visible_gpus
from pipeline.runner.prefetch import ahead
from pipeline.runner.tasks import map_bounded
from tests.commands import ROOT


def cluster(*settings: str) -> Cluster:
    return load(settings=[f"cluster.{setting}" for setting in settings]).cluster


@pytest.mark.parametrize(
    ("count", "visible", "expected"),
    [(0, None, []), (2, None, ["0", "1"]), (2, "5, GPU-ab", ["5", "GPU-ab"]), (0, "-1", []), (0, "", [])],
)
def test_visible_gpus_go_by_their_numbers_or_names_in_the_environment(count, visible, expected):
    assert list(visible_gpus(count, visible)) == expected


def test_each_worker_process_sees_one_gpu_and_they_share_them_evenly(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)  # stand-in: two GPUs
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("pipeline.runner.local_workers.MEMORY_LIMIT", 100 * PROCESS_BYTES)
    with connect(cluster("processes_per_gpu=2"), 64, no_model) as client:
        seen = client.run(lambda: os.environ["CUDA_VISIBLE_DEVICES"])
    assert Counter(seen.values()) == {"0": 2, "1": 2}


@pytest.mark.parametrize(
    ("processes", "workers", "line"),
    [
        pytest.param(10, 8, "8 workers x 1 thread", id="enough memory for all"),
        pytest.param(4, 3, "3 workers x 1 thread; 4.4 GB of memory do not allow 8", id="memory for three"),
        pytest.param(1, 1, "1 workers x 1 thread; 1.1 GB of memory do not allow 8", id="at least one"),
    ],
)
def test_no_more_workers_than_memory_allows(processes, workers, line, monkeypatch):
    monkeypatch.setattr("pipeline.runner.local_workers.MEMORY_LIMIT", processes * PROCESS_BYTES)
    local = local_workers(cluster("workers=8"))
    assert (local.count, local.line) == (workers, line)


def end(marker: Path) -> None:
    os._exit(1)


def fill_memory_once(marker: Path) -> None:
    """Exceed the share of memory, unless an earlier process did; the cluster waits for the last one."""
    if not marker.exists():
        marker.touch()
        filled = np.ones(2 * PROCESS_BYTES, np.uint8)
        time.sleep(600)
        assert filled.all()


@pytest.mark.parametrize(
    ("load_model", "attempts"),
    [
        pytest.param(end, runner.LOAD_ATTEMPTS, id="because it exits"),
        pytest.param(fill_memory_once, 1, id="because it has more memory than its share"),
    ],
)
def test_a_worker_that_dies_while_it_loads_the_model_ends_in_a_sentence(
    load_model, attempts, tmp_path, monkeypatch
):
    monkeypatch.setattr(runner, "LOAD_ATTEMPTS", attempts)
    monkeypatch.setattr(runner, "MEMORY_LIMIT", PROCESS_BYTES)
    monkeypatch.setattr(runner, "RESTART_SECONDS", 5.0)
    load = partial(load_model, tmp_path / "filled")
    with (
        pytest.raises(UserError, match="died while it loaded the model; is there enough memory"),
        connect(cluster("workers=1"), 1, load),
    ):
        pass


def die_once(marker: Path) -> None:
    """Kill this process, unless another one did so before."""
    with suppress(FileExistsError):
        marker.touch(exist_ok=False)
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_while_it_loads_the_model_is_replaced(tmp_path):
    two = cluster("workers=2")
    with shared_workers():
        with connect(two, 2, no_model):
            time.sleep(SETTLE_SECONDS)  # Dask replaces no younger worker
        with connect(two, 2, partial(die_once, tmp_path / "died")) as client:
            assert (tmp_path / "died").exists()
            assert len(client.run(os.getpid)) == 2
            assert len(dict(map_bounded(client, math.sqrt, [4.0, 9.0], two))) == 2


PROGRAM = """
import signal, time
from common.fork_server import start_fork_server
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits that it is ignored
start_fork_server("pipeline.parse.shard")
print("started", flush=True)
try:
    time.sleep(600)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_ctrl_c_while_it_imports_is_the_commands_alone_and_it_ends_with_the_command():
    command, pipe = [sys.executable, "-c", PROGRAM], subprocess.PIPE
    driver = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdout=pipe, stderr=pipe, text=True)
    assert driver.stdout.readline() == "started\n"
    time.sleep(1)  # until it is in the middle of its imports, on most machines
    os.killpg(driver.pid, signal.SIGINT)
    stdout, stderr = driver.communicate(timeout=600)  # until the server has closed its standard error, too
    assert (stdout, stderr, driver.returncode) == ("interrupted\n", "", 0)


def test_a_folder_for_temporary_files_that_is_too_long_for_sockets_is_named(monkeypatch):
    folder = "/tmp/" + "x" * 94
    monkeypatch.setattr("tempfile.tempdir", folder)
    with pytest.raises(UserError, match=f"{folder}: too long for sockets; set TMPDIR"):
        start_fork_server()


def test_a_step_is_ahead_by_no_more_than_its_depth_keeps_the_order_and_errors_and_leaves_no_thread():
    made: list[int] = []
    before = threading.active_count()

    def items() -> Iterator[int]:
        for number in range(20):
            made.append(number)
            yield number
        raise OSError("the disk is full")

    step = ahead(items(), 3)
    for expected in range(20):
        assert next(step) == expected
        assert len(made) - expected <= 4
    with pytest.raises(OSError, match="the disk is full"):
        next(step)
    step = ahead(iter(range(100)), 2)
    next(step)
    step.close()
    assert threading.active_count() == before


def test_a_batch_that_does_not_fit_is_halved_once_and_for_all_and_a_face_that_does_not_is_an_error():
    batches: list[int] = []

    def gpu(faces: np.ndarray, room: int = 3) -> Parsed:
        """A stand-in for a parser on a GPU."""
        batches.append(len(faces))
        if len(faces) > room:
            raise torch.OutOfMemoryError
        red = faces[:, 0, 0]
        return faces[..., 0], red.astype(np.float32), {"pooled.npy": red.astype(np.float16)}

    parse = SplitOnMemoryError(gpu)
    faces = np.arange(10 * 4 * 4 * 3, dtype=np.uint8).reshape(10, 4, 4, 3)
    masks, confidences, features = parse(faces)
    assert np.array_equal(masks, faces[..., 0])
    assert len(confidences) == len(features["pooled.npy"]) == 10
    parse(faces[:2])
    assert batches == [10, 5, 2, 2, 2, 2, 2, 2]
    with pytest.raises(torch.OutOfMemoryError):
        SplitOnMemoryError(partial(gpu, room=0))(faces)
