"""Machines as people have them: other users, no home, no locks, odd locales, full disks."""

import errno
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import MagicMock, patch

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from safetensors.torch import save_file

from common import manifest
from common.config import load
from common.errors import UserError
from common.files import readable_or_own, replacing, write_text
from common.layout import Layout
from common.parsing.find_parser import find_embedder, find_parser
from common.parsing.network import check_whole
from common.shards import Extent, read_member
from common.weights import find
from pipeline.align.run import plan, read_plan
from tests import manifests
from tests.commands import ROOT, run_python
from tests.listings import fill
from tests.test_inputs import unprivileged
from training.data.samples import read_index, read_samples
from training.data.shard_cache import ShardCache
from training.engine import checkpoint
from training.engine.trainer import Log
from training.models import build
from training.models.pretrained import save_pretrained
from training.predict.output import write_table


@pytest.mark.parametrize(
    ("prelude", "environment", "expected"),
    [
        ("", {"XDG_CACHE_HOME": "", "HOME": "/h"}, "/h/.cache/sspl-faces"),  # empty counts as unset
        ("", {"XDG_CACHE_HOME": "/c", "HOME": "/h"}, "/c/sspl-faces"),
        ("os.environ.pop('HOME', None); os.getuid = lambda: 987654", {}, "this user has no home"),
    ],
)
def test_the_cache_of_weights(prelude, environment, expected):
    code = f"import os; {prelude}\nfrom common.files import user_cache; print(user_cache())"
    done = run_python(code, env=environment)
    assert expected in (done.stdout or done.stderr)


UNKNOWN_USER = ("setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups")


@pytest.fixture
def others_python():
    """A Python of this version that every user may run."""
    if os.getuid() != 0 or not shutil.which(UNKNOWN_USER[0]):
        pytest.skip("only root, with setpriv, can run a command as an unknown user")
    system = shutil.which(f"python3.{sys.version_info.minor}", path="/usr/local/bin:/usr/bin")
    code = "import subprocess, sys; subprocess.check_call([sys.executable, '-c', ''])"
    for python in filter(None, (sys.executable, system)):
        command = [*UNKNOWN_USER, python, "-c", code]
        if not subprocess.run(command, capture_output=True, check=False).returncode:
            return python
    pytest.skip("this Python lies in a folder that other users may not enter")


@pytest.fixture
def others_folder():
    """A folder with a photo that every user may write to; pytest's own are the user's alone."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        Image.new("RGB", (64, 64)).save(folder / "in" / "a.png")
        folder.chmod(0o777)
        yield folder


@pytest.mark.parametrize(
    ("stage", "home", "expected"),
    [
        ("ingest", None, "ingest: 1 sources, 0 refused"),
        ("align", None, "error: this user has no home folder, which Dask's dashboard looks for"),
        ("align", "/", "align: 1 faces, 0 refused"),
    ],
    ids=["ingest needs no home", "workers need one", "they need nothing in it, as in a container"],
)
def test_a_user_id_that_the_system_does_not_know(others_python, others_folder, stage, home, expected):
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": sysconfig.get_path("purelib")}
    environment |= {"PYTHONPYCACHEPREFIX": sys.pycache_prefix or ""} | ({"HOME": home} if home else {})
    command = [*UNKNOWN_USER, others_python, "-m", f"pipeline.{stage}", "--input", others_folder / "in"]
    command += ["--output", others_folder / "out", "--align", "none", "--set", "cluster.workers=1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert expected in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_system_without_file_locks_is_named_in_one_sentence():
    code = "import sys; sys.modules['fcntl'] = None; import pipeline.command"  # stands in for Windows
    done = run_python(code)
    assert done.stderr == "error: this system has no file locks of POSIX; on Windows, use WSL\n"


@pytest.mark.parametrize(
    ("model", "named"),
    [("retinaface_mobile0.25", True), ("bisenet", False)],
    ids=["that aligned pictures do not need", "that all need"],
)
def test_weights_that_cannot_be_fetched(tmp_path, monkeypatch, model, named):
    def offline(*_: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("common.weights._from_release", offline)
    monkeypatch.setattr("common.weights._from_registry", offline)
    with pytest.raises(UserError, match="could not be fetched") as error:
        find(model, load(settings=[f"weights.cache={tmp_path}"]).weights)
    assert ("--align none" in str(error.value)) == named


def test_the_detector_loads_where_torch_is_told_to_load_anything(monkeypatch):
    code = """if True:
        from common.alignment.detector import load_detector
        from common.config import load
        from common.weights import find
        load_detector(name := load().align.detector, find(name, load().weights))
        print("loaded")
    """
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    done = run_python(code)
    assert done.stdout == "loaded\n", done.stderr


@pytest.mark.parametrize(
    ("folder", "file", "own"),
    [
        pytest.param(0o755, 0o644, False, id="readable"),
        pytest.param(0o755, 0o600, True, id="unreadable"),
        pytest.param(0o1777, 0o600, True, id="unreadable in a shared folder"),
        pytest.param(0o755, None, True, id="missing"),
        pytest.param(0o1777, None, False, id="missing in a shared folder"),
    ],
)
def test_weights_of_another_user_are_read_or_kept_in_the_own_cache(folder, file, own, monkeypatch):
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


def test_a_written_file_has_the_mode_of_the_umask(tmp_path):
    umask = os.umask(0)
    os.umask(umask)
    for write in (
        lambda path: path.write_bytes(b"text"),
        lambda path: save_file({"a": torch.zeros(2)}, str(path)),
        lambda path: path.with_suffix(".new").touch(0o600) or path.with_suffix(".new").replace(path),
    ):
        with replacing(tmp_path / "file") as temporary:
            write(temporary)
        assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~umask


def test_names_of_photos_are_utf8_whatever_the_login(tmp_path):
    login = dict(LC_ALL="POSIX", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    fill(tmp_path / "in", ["müller.jpg"])
    (tmp_path / "in" / "名前.csv").write_text("path,Male\nmüller.jpg,1\nnobody-ñ.jpg,1\n", encoding="utf-8")
    command = [sys.executable, "-m", "pipeline.ingest", "--input", tmp_path / "in", "--output", tmp_path]
    done = subprocess.run(command, env=os.environ | login, cwd=ROOT, capture_output=True)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
    rows = manifest.read(tmp_path / "manifests/source.parquet").rows()
    reasons = {row["source"]: row["reason"] for row in rows}
    assert reasons == {"müller.jpg": None, "nobody-ñ.jpg": "label-without-image"}


@pytest.mark.parametrize("shard", ["../../etc/passwd", "/etc/passwd", "d/../../x.tar"])
def test_shards_of_a_manifest_lie_below_its_folder(shard, tmp_path):
    layout, settings = Layout.at(tmp_path), load()
    row = {"source": "a.jpg", "shard": shard, "split": "train", "sha256": "0" * 64, "key": "0" * 16}
    metadata = {"dataset": "d", "root": "in", "aligned": "true"}
    manifests.write(layout.source, manifest.SOURCE_FIELDS, [row], (), metadata)
    with ShardCache(tmp_path, settings.stream) as shards:
        for read in (
            lambda: read_member(tmp_path, shard, Extent(0, 4)),
            lambda: shards.open(shard).__enter__(),
            lambda: plan(read_plan(layout), settings, layout),
        ):
            with pytest.raises(UserError, match="names a shard outside of this folder"):
                read()


@pytest.mark.parametrize("missing", ["jpg.crc32", "mask.png.crc32", "parts.npy.size"])
def test_a_manifest_of_another_version_is_refused_in_one_sentence(missing, tmp_path):
    layout, row = Layout.at(tmp_path), {"key": "k", "split": "train", "shard": "d/a.tar"}
    manifests.write(layout.samples, manifest.SAMPLE_FIELDS, [row])
    pq.write_table(pq.read_table(layout.samples).drop_columns([missing]), layout.samples)
    message = rf"shards\.parquet has no column {missing}; it is of another version"
    with pytest.raises(UserError, match=message):
        read_index(layout, ["train"], None)


def network(path: Path, external: bool, constant: bool) -> Path:
    """An ONNX file that adds a constant to its input, with the constant in the file or beside it."""
    value = numpy_helper.from_array(np.zeros(1024, np.float32), "w")
    given, result = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1024]) for name in "xy")
    nodes = [helper.make_node("Constant", [], ["w"], value=value)] if constant else []
    nodes.append(helper.make_node("Add", ["x", "w"], ["y"]))
    graph = helper.make_graph(nodes, "g", [given], [result], [] if constant else [value])
    beside = {"save_as_external_data": True, "size_threshold": 0, "convert_attribute": True}
    onnx.save(helper.make_model(graph), str(path), **(beside if external else {}))
    return path


@pytest.mark.parametrize("constant", [False, True], ids=["an initializer", "a constant"])
def test_networks_whose_weights_lie_beside_them_are_refused(constant, tmp_path):
    check_whole(network(tmp_path / "whole.onnx", False, constant))
    split = network(tmp_path / "split.onnx", True, constant)
    config = load(settings=["parse.parser=onnx", f"weights.parser={split}"])
    message = r"split\.onnx: its weights lie in another file.*onnx\.save"
    with pytest.raises(UserError, match=message):
        find_parser(config.parse, config.weights)
    with pytest.raises(UserError, match=message):
        find_embedder(str(split), config.weights)


SMALL = load(settings=["network.width=8", "network.input_size=32"])
TABLE = pa.table({"face": np.arange(9), "present": [["Male"]] * 9})
WRITERS: dict[str, Callable[[Path], None]] = {
    "a.json": lambda path: write_text(path, "text"),
    "a.pt": lambda path: checkpoint.save(path, {"weights": torch.zeros(1000)}),
    "a.safetensors": lambda path: save_pretrained(path, build(SMALL.network), SMALL),
    "table.csv": lambda path: write_table(path, TABLE),
    "table.json": lambda path: write_table(path, TABLE),
    "table.parquet": lambda path: write_table(path, TABLE),
}


@pytest.mark.parametrize("name", WRITERS)
def test_writers_name_the_file_and_leave_the_old_one(tmp_path, name):
    (tmp_path / name).write_text("old")
    (tmp_path / f".{name}.{os.getpid()}.partial").symlink_to("/dev/full")
    with pytest.raises(UserError, match=f"{tmp_path / name}: the disk is full"):
        WRITERS[name](tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "old"


def test_an_index_without_room_in_the_temporary_folder_is_made_again_later(shards, tmp_path):
    known = read_samples(shards, ("train",), tmp_path)
    (file,) = tmp_path.glob("index-*.arrow")
    file.unlink()
    (tmp_path / f".{file.name}.{os.getpid()}.partial").symlink_to("/dev/full")
    with pytest.raises(UserError, match=f"{file}: the disk is full"):
        read_samples(shards, ("train",), tmp_path)
    assert not list(tmp_path.glob("*.arrow")) and not list(tmp_path.glob(".*.partial"))
    assert list(read_samples(shards, ("train",), tmp_path).keys) == list(known.keys)


def test_a_log_that_a_full_disk_cut_off_continues(tmp_path):
    values = {"loss": 1.0, "accuracy": 0.5}
    with Log(tmp_path, 0) as log:
        log.values(1, "train", values)
    folder = tmp_path / "dvclive"
    curves = folder / "plots" / "metrics" / "train"
    full = MagicMock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
    said = pytest.raises(UserError, match=f"{folder}: the disk is full")
    with said, Log(tmp_path, 1) as log, patch("dvclive.Live.log_metric", full):
        log.values(2, "train", values)
    (folder / "metrics.json").write_text("")
    (curves / "accuracy.tsv").write_text("")
    (curves / "loss.tsv").write_text("step\tloss\n1\t1.0\n2\t0.")
    with Log(tmp_path, 1) as log:
        log.values(2, "train", values)
    assert (curves / "loss.tsv").read_text() == "step\tloss\n1\t1.0\n2\t1.0\n"
    assert (curves / "accuracy.tsv").read_text() == "step\taccuracy\n2\t0.5\n"
