"""What tests share: a small painted data set, and the shards that the real pipeline makes of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from common.config import Config, load
from common.layout import Layout
from pipeline.align.stage import align
from pipeline.ingest.plan import ingest
from pipeline.parse.stage import parse
from synthetic import write_dataset

PORTRAITS = 24


@pytest.fixture(scope="session")
def portraits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of painted portraits in CelebA's layout, with exact masks beside it."""
    folder = tmp_path_factory.mktemp("input") / "portraits"
    write_dataset(folder, count=PORTRAITS, seed=3, workers=1)
    return folder


@pytest.fixture(scope="session")
def pipeline_config(portraits: Path) -> Config:
    """The configuration that the shared shards are made with: two worker processes, small shards."""
    return load(
        settings=[
            f"data.input={portraits}",
            "data.name=portraits",
            "ingest.shard_size=8",
            "cluster.workers=2",
        ]
    )


@pytest.fixture(scope="session")
def shards(pipeline_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Shards of the painted portraits, made by the real parser on a real cluster; do not change them."""
    layout = Layout.at(tmp_path_factory.mktemp("shards"))
    ingest(pipeline_config, layout)
    align(pipeline_config, layout)
    parse(pipeline_config, layout)
    return layout


@pytest.fixture(scope="session")
def object_store() -> Iterator[None]:
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
