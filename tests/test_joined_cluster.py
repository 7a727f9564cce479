"""Clusters that are joined: scaling from zero, TLS, workers with other code, many threads, or stuck."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from threading import Barrier

import dask
import psutil
import pytest
from distributed import Client, LocalCluster

from common.config import load
from common.errors import UserError
from common.pipeline_config import Cluster
from pipeline.runner import cluster as runner
from pipeline.runner import monitor
from pipeline.runner.cluster import connect, event_loop, no_model
from pipeline.runner.monitor import Monitor
from pipeline.runner.tasks import map_bounded
from tests.commands import ROOT, run_command
from tests.test_survival import QUICK, finished_bytes

LIMIT = 600.0
"""Seconds that a busy machine may take for anything."""


def joined(address: str, *settings: str) -> Cluster:
    own = [f"scheduler={address}", *settings]
    return load(settings=[f"cluster.{setting}" for setting in own]).cluster


FOUR = Barrier(4)


def meet_three_others(task: int) -> int:
    return FOUR.wait(LIMIT)


def test_every_thread_of_a_joined_worker_gets_tasks():
    with (
        event_loop() as loop,
        LocalCluster(
            n_workers=1, threads_per_worker=4, processes=False, dashboard_address=None, loop=loop
        ) as cluster,
        Client(cluster) as client,
    ):
        config = joined(cluster.scheduler_address)
        met = [future.result() for _, future in map_bounded(client, meet_three_others, range(4), config)]
    assert sorted(met) == [0, 1, 2, 3]


def test_a_cluster_that_scales_from_zero_starts_its_first_worker():
    with (
        event_loop() as loop,
        LocalCluster(n_workers=0, threads_per_worker=1, dashboard_address=None, loop=loop) as cluster,
    ):
        cluster.adapt(minimum=0, maximum=1, interval="100ms", wait_count=1000)
        with connect(joined(cluster.scheduler_address), 1, no_model) as client:
            assert [future.result() for _, future in map_bounded(client, abs, [-1], joined("x"))] == [1]


def test_a_local_cluster_listens_on_the_loopback_alone_and_a_slow_start_of_a_thread_ends_no_run(monkeypatch):
    monkeypatch.setattr("distributed.utils._CollectErrorThread", None)  # Dask's, which may take ten seconds
    with (
        connect(load(settings=["cluster.workers=1"]).cluster, 1, no_model) as client,
        connect(joined(client.scheduler.address), 1, no_model) as joining,
    ):
        assert joining.submit(abs, -1).result() == 1
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        sockets = [each for process in processes for each in process.net_connections("tcp")]
        addresses = {each.laddr.ip for each in sockets if each.status == psutil.CONN_LISTEN}
    assert addresses == {"127.0.0.1"}


def hang_once(marker: Path, task: int) -> int:
    if not marker.exists():
        marker.touch()
        time.sleep(600)
    return task


def test_a_task_without_progress_is_named_and_made_again_by_a_new_process(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(monitor, "STALLED_MINUTES", 0.1)
    config = load(settings=["cluster.workers=1"]).cluster
    restart_workers = Client.restart_workers

    def restart_once(client: Client, *workers: object, **options: object) -> object:
        monkeypatch.setattr(monitor, "STALLED_MINUTES", 60)  # a busy machine may be slow the second time
        return restart_workers(client, *workers, **options)

    monkeypatch.setattr(Client, "restart_workers", restart_once)
    with connect(config, 1, no_model) as client, Monitor(client, "parse", "faces", 1, 0):
        hang = partial(hang_once, tmp_path / "hung")
        (done,) = map_bounded(client, hang, [7], config)
        assert done[1].result() == 7
    assert "parse: no progress for 0.1 minutes on tcp://" in capsys.readouterr().err


@pytest.fixture
def start(tmp_path):
    """Starts a scheduler and workers as processes of their own, and returns the scheduler's address."""
    processes: list[subprocess.Popen[bytes]] = []
    file, log = tmp_path / "scheduler.json", tmp_path / "log"

    def start(project: Path, *options: str, workers: Sequence[Sequence[str]] = ((),)) -> str:
        python = [sys.executable, "-m"]
        shared = ("--no-dashboard", "--scheduler-file", str(file), *options)
        scheduler = [*python, "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", *shared]
        worker = [*python, "distributed.cli.dask_worker", "--nthreads", "1", *shared]
        environment = {**os.environ, "PYTHONPATH": str(project)}
        with log.open("w") as out:
            for command in (scheduler, *([*worker, *flags] for flags in workers)):
                started = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=out, stderr=out)
                processes.append(started)
        deadline = time.monotonic() + LIMIT
        while not file.is_file():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        return str(json.loads(file.read_text())["address"])

    yield start
    for process in reversed(processes):  # a worker waits for its scheduler
        process.terminate()
        process.wait(LIMIT)


def test_a_worker_with_other_code_is_refused_in_a_sentence(start, tmp_path):
    project = tmp_path / "project"
    for package in ("pipeline", "common"):
        shutil.copytree(ROOT / package, project / package)
    with (project / "pipeline" / "align" / "shard.py").open("a") as module:
        module.write("\nOLD = True\n")
    address = start(project)
    with (
        pytest.raises(UserError, match=r"the worker tcp://.* runs other code .*pipeline\.align\.shard"),
        connect(joined(address), 1, no_model, "pipeline.align.shard"),
    ):
        pass


def make_certificate(folder: Path) -> None:
    """Write a throw-away authority, ``ca.pem``, and ``cert.pem``, which it signed, with its ``key.pem``."""

    def openssl(arguments: str) -> None:
        subprocess.run(["openssl", *arguments.split()], cwd=folder, check=True, capture_output=True)

    new = "req -newkey rsa:2048 -nodes"
    openssl(f"{new} -x509 -days 1 -subj /CN=authority -keyout ca.key -out ca.pem")
    openssl(f"{new} -subj /CN=127.0.0.1 -keyout key.pem -out request.pem")
    openssl("x509 -req -days 1 -CA ca.pem -CAkey ca.key -CAcreateserial -in request.pem -out cert.pem")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates with openssl")
def test_a_scheduler_with_tls_is_joined_by_dasks_own_settings(start, tmp_path):
    make_certificate(tmp_path)
    files = {"ca-file": "ca.pem", "cert": "cert.pem", "key": "key.pem"}
    flags = (f"--tls-{name}={tmp_path / file}" for name, file in files.items())
    address = start(ROOT, "--protocol", "tls", *flags)
    assert address.startswith("tls://")
    config = joined(address)
    names = zip(("ca-file", "client.cert", "client.key"), files.values(), strict=True)
    tls = dask.config.set({f"distributed.comm.tls.{name}": str(tmp_path / file) for name, file in names})
    with tls, connect(config, 1, no_model) as client:
        assert [future.result() for _, future in map_bounded(client, abs, [-1], config)] == [1]
    with pytest.raises(UserError, match="no Dask scheduler answers at tls://"), connect(config, 1, no_model):
        pass


def test_a_joined_cluster_does_the_same_on_workers_that_offer_a_gpu(start, portraits, tmp_path, monkeypatch):
    address = start(ROOT, workers=(("--name", "plain"), ("--name", "gpu", "--resources", "GPU=1")))
    with event_loop() as loop, Client(address, loop=loop, timeout=LIMIT) as client:
        client.wait_for_workers(2, timeout=LIMIT)

    def run(output: Path, *settings: str) -> subprocess.CompletedProcess[str]:
        flags = [part for setting in (*QUICK, *settings) for part in ("--set", setting)]
        return run_command("pipeline.parse", "--input", portraits, "--output", output, *flags)

    scheduler = f"cluster.scheduler={address}"
    done = run(tmp_path / "joined", scheduler, "cluster.resources={GPU: 1}")
    assert done.returncode == run(tmp_path / "local").returncode == 0, done.stderr
    assert finished_bytes(tmp_path / "joined") == finished_bytes(tmp_path / "local")
    assert "1 workers; dashboard: http://" in done.stdout
    with event_loop() as loop, Client(address, loop=loop, timeout=LIMIT) as client:
        loaded = client.run(parsers_in_memory)
        names = {w["id"]: a for a, w in client.scheduler_info(n_workers=-1)["workers"].items()}
        plugins = client.run(lambda dask_worker: "sspl-faces" in dask_worker.plugins)
    assert loaded == {names["gpu"]: 1, names["plain"]: 0}
    assert not any(plugins.values())
    monkeypatch.setattr(runner, "START_MINUTES", 0.1)
    missing = run(tmp_path / "other", scheduler, "cluster.resources={TPU: 1}")
    assert missing.returncode == 1
    assert f"error: {address} has no worker that offers TPU=1 (cluster.resources)" in missing.stderr


def parsers_in_memory() -> int:
    """How many parsers the worker that runs this has loaded."""
    from common.parsing.parser import load_parser

    return load_parser.cache_info().currsize


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("cluster.resources={GPU: 1}", "name its --scheduler"),
        ("cluster.scheduler=tcp://127.0.0.1:9", "no Dask scheduler answers at tcp://127.0.0.1:9"),
    ],
)
def test_a_cluster_that_cannot_be_used_is_an_error(setting, message, monkeypatch):
    monkeypatch.setattr(runner, "JOIN_SECONDS", 1)
    with pytest.raises(UserError, match=message), connect(load(settings=[setting]).cluster, 1, no_model):
        pass
