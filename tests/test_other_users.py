"""Files and machines of other users: shared caches, other locales, manifests made to harm, split networks."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file

from common import manifest
from common.config import load
from common.errors import UserError
from common.files import replacing
from common.layout import Layout
from common.parsing.find_parser import find_embedder, find_parser
from common.parsing.network import check_whole
from common.shards import Extent, read_member
from common.user_cache import readable_or_own
from pipeline.align.run import plan, read_plan
from tests import manifests
from tests.listings import photo
from tests.test_inputs import unprivileged
from training.data.index import read_index
from training.data.shard_cache import ShardCache

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("folder", "file", "own"),
    [
        (0o755, 0o644, False),
        (0o755, 0o600, True),
        (0o1777, 0o600, True),
        (0o755, None, True),
        (0o1777, None, False),
    ],
    ids=["readable", "unreadable", "unreadable in a shared folder", "missing", "missing in a shared folder"],
)
def test_weights_of_another_user_are_read_or_kept_in_the_own_cache(
    folder: int, file: int | None, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be two users")
    with TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        monkeypatch.setenv("XDG_CACHE_HOME", f"{name}/own")
        weights = Path(name, "cache", "parser.onnx")
        weights.parent.mkdir()
        if file is not None:
            weights.touch()
            weights.chmod(file)
        weights.parent.chmod(folder)
        with unprivileged():
            assert readable_or_own(weights) == (Path(name, "own/sspl-faces/parser.onnx") if own else weights)


def test_a_cache_that_does_not_exist_yet_is_made_where_it_was_named(tmp_path: Path) -> None:
    assert readable_or_own(tmp_path / "a" / "b" / "c.pth") == tmp_path / "a" / "b" / "c.pth"


def test_each_user_has_a_folder_in_a_shared_cache_of_shards(tmp_path: Path) -> None:
    assert load(settings=[f"stream.cache={tmp_path}"]).stream.folder == tmp_path / f"shards-{os.getuid()}"


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(b"text"),
        lambda path: save_file({"a": torch.zeros(2)}, str(path)),
        lambda path: path.with_suffix(".new").touch(0o600) or path.with_suffix(".new").replace(path),
    ],
    ids=["in place", "by safetensors", "replaced"],
)
def test_a_written_file_has_the_mode_of_the_umask(write: Callable[[Path], object], tmp_path: Path) -> None:
    with replacing(tmp_path / "file") as temporary:
        write(temporary)
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"},
    ],
    ids=["a login without UTF-8", "output in ASCII", "both"],
)
def test_names_of_photos_are_utf8_whatever_the_login(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "müller.jpg").write_bytes(photo())
    (tmp_path / "in" / "名前.csv").write_text("path,Male\nmüller.jpg,1\nnobody-ñ.jpg,1\n", encoding="utf-8")
    command = [sys.executable, "-m", "pipeline.ingest", "--input", str(tmp_path / "in")]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "out")],
        env=os.environ | environment,
        cwd=ROOT,
        capture_output=True,
    )
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
    rows = {
        row["source"]: row["reason"]
        for row in manifest.read(tmp_path / "out/manifests/source.parquet").rows()
    }
    assert rows == {"müller.jpg": None, "nobody-ñ.jpg": "label-without-image"}


@pytest.mark.parametrize("shard", ["../../etc/passwd", "/etc/passwd", "d/../../x.tar"])
def test_shards_of_a_manifest_lie_below_its_folder(shard: str, tmp_path: Path) -> None:
    message = "names a shard outside of this folder"
    with pytest.raises(UserError, match=message):
        read_member(tmp_path, shard, Extent(0, 4))
    with (
        pytest.raises(UserError, match=message),
        ShardCache(tmp_path, load().stream) as shards,
        shards.open(shard),
    ):
        pass
    layout = Layout.at(tmp_path)
    row = {"source": "a.jpg", "shard": shard, "split": "train", "sha256": "0" * 64, "key": "0" * 16}
    manifests.write(
        layout.source, manifest.SOURCE_FIELDS, [row], (), {"dataset": "d", "root": "in", "aligned": "true"}
    )
    with pytest.raises(UserError, match=message):
        plan(read_plan(layout), load(), layout)


@pytest.mark.parametrize("missing", ["jpg.crc32", "mask.png.crc32", "parts.npy.size"])
def test_a_manifest_of_another_version_is_refused_in_one_sentence(missing: str, tmp_path: Path) -> None:
    layout = Layout.at(tmp_path)
    manifests.write(
        layout.samples, manifest.SAMPLE_FIELDS, [{"key": "k", "split": "train", "shard": "d/a.tar"}]
    )
    pq.write_table(pq.read_table(layout.samples).drop_columns([missing]), layout.samples)
    with pytest.raises(
        UserError, match=rf"shards\.parquet has no column {missing}; it is of another version"
    ):
        read_index(layout, ["train"], None)


def network(path: Path, external: bool, constant: bool = False) -> Path:
    """An ONNX file that adds a constant to its input, with the constant in the file or beside it."""
    value = numpy_helper.from_array(np.zeros(1024, np.float32), "w")
    shape = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1024])
    nodes = [helper.make_node("Constant", [], ["w"], value=value)] if constant else []
    nodes.append(helper.make_node("Add", ["x", "w"], ["y"]))
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1024])
    graph = helper.make_graph(nodes, "g", [shape], [result], [] if constant else [value])
    options = (
        {"save_as_external_data": True, "size_threshold": 0, "convert_attribute": True} if external else {}
    )
    onnx.save(helper.make_model(graph), str(path), **options)
    return path


@pytest.mark.parametrize("constant", [False, True], ids=["an initializer", "a constant"])
def test_networks_whose_weights_lie_beside_them_are_refused(constant: bool, tmp_path: Path) -> None:
    check_whole(network(tmp_path / "whole.onnx", False, constant))
    split = network(tmp_path / "split.onnx", True, constant)
    config = load(settings=["parse.parser=onnx", f"weights.parser={split}"])
    for find in (
        lambda: find_parser(config.parse, config.weights),
        lambda: find_embedder(str(split), config.weights),
    ):
        with pytest.raises(UserError, match=r"split\.onnx: its weights lie in another file.*onnx\.save"):
            find()
