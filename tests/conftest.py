"""What tests share: a small painted data set, and the shards that the real pipeline makes of it."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from distributed import LocalCluster
from hypothesis import settings
from moto.server import ThreadedMotoServer

from common.config import Config, load
from common.layout import Layout
from pipeline.align.run import align
from pipeline.ingest.run import ingest
from pipeline.parse.run import parse
from pipeline.runner.cluster import event_loop, shared_workers
from synthetic import write_dataset

PORTRAITS = 24

settings.register_profile("busy", deadline=None)  # a machine's load is no fault of a test
settings.load_profile("busy")


def pytest_configure() -> None:
    """One torch thread per process: with two, processes that share the cores took three times the CPU."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory, worker_id):
    """A temporary folder that all test processes of one run have in common."""
    folder = tmp_path_factory.getbasetemp()
    return folder if worker_id == "master" else folder.parent


def make_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Let the first test process fill `folder`; the others wait for it and use the result."""
    finished = folder.with_name(f"{folder.name}.finished")
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not finished.exists():
            make(folder)
            finished.touch()
    return folder


@pytest.fixture(scope="session")
def portraits(shared_folder):
    """A data set of painted portraits in CelebA's layout, with exact masks beside it."""
    return make_once(
        shared_folder / "portraits", lambda folder: write_dataset(folder, count=PORTRAITS, seed=3, workers=1)
    )


@pytest.fixture(scope="session")
def pipeline_config(portraits):
    """The configuration that the shared shards are made with: two worker processes, small shards."""
    own = [f"data.input={portraits}", "data.name=portraits", "ingest.shard_size=8", "cluster.workers=2"]
    return load(settings=own)


def run_pipeline(config: Config, layout: Layout) -> None:
    """All stages of the pipeline."""
    ingest(config, layout)
    align(config, layout)
    parse(config, layout)


@pytest.fixture(scope="session")
def shards(pipeline_config, shared_folder):
    """Shards of the painted portraits, made by the real parser on a real cluster; do not change them."""

    def make(folder: Path) -> None:
        with shared_workers():
            run_pipeline(pipeline_config, Layout.at(folder))

    return Layout.at(make_once(shared_folder / "shards", make))


@pytest.fixture
def copy(shards, tmp_path):
    """A copy of the finished set that a test may damage."""
    shutil.copytree(str(shards.shards), tmp_path / "copy")
    return Layout.at(tmp_path / "copy")


@pytest.fixture(scope="module")
def workers():
    """Worker processes that all stages which a module runs share."""
    with shared_workers():
        yield


@pytest.fixture(scope="module")
def cluster_config():
    """Names a worker process that all tests of a module share."""
    with (
        event_loop() as loop,
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0", loop=loop) as cluster,
    ):
        yield load(settings=[f"cluster.scheduler={cluster.scheduler_address}"])


@pytest.fixture(scope="session")
def object_store():
    """A real S3 API server on the loopback, named to all processes by the usual environment."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield
    server.stop()
