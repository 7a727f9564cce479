"""Unusual environments: weights are found and loaded, or one sentence says why not."""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from PIL import Image

from common.config import load
from common.errors import UserError
from common.weights import find

ROOT = Path(__file__).resolve().parent.parent
CACHE = (
    "from common.config import load; from common.weights import cache_folder; "
    "print(cache_folder(load().weights))"
)
NO_HOME = "import os; os.environ.pop('HOME', None); os.getuid = lambda: 987654; "
BOTH = (
    "from common.alignment.detector import load_detector; from common.config import load; "
    "from common.weights import find; name = load().align.detector; "
    "load_detector(name, find(name, load().weights)); print('loaded')"
)


@pytest.mark.parametrize(
    ("code", "environment", "expected"),
    [
        pytest.param(
            CACHE,
            {"XDG_CACHE_HOME": "", "HOME": "/h"},
            "/h/.cache/sspl-faces",
            id="an empty XDG_CACHE_HOME counts as unset",
        ),
        pytest.param(
            CACHE, {"XDG_CACHE_HOME": "/c", "HOME": "/h"}, "/c/sspl-faces", id="XDG_CACHE_HOME is used"
        ),
        pytest.param(
            NO_HOME + CACHE, {}, "this user has no home", id="a user id without a home gets a sentence"
        ),
    ],
)
def test_the_cache_of_weights(code: str, environment: dict[str, str], expected: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment, check=False
    )
    assert expected in (done.stdout or done.stderr)


UNKNOWN_USER = ("setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups")


@pytest.fixture
def others_python() -> str:
    """A Python of this version that every user may run."""
    if os.getuid() != 0 or not shutil.which(UNKNOWN_USER[0]):
        pytest.skip("only root, with setpriv, can run a command as an unknown user")
    system = shutil.which(f"python3.{sys.version_info.minor}", path="/usr/local/bin:/usr/bin")
    code = "import subprocess, sys; subprocess.check_call([sys.executable, '-c', ''])"
    for python in filter(None, (sys.executable, system)):
        if not subprocess.run(
            [*UNKNOWN_USER, python, "-c", code], capture_output=True, check=False
        ).returncode:
            return python
    pytest.skip("this Python lies in a folder that other users may not enter")


@pytest.fixture
def others_folder() -> Iterator[Path]:
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
    ids=[
        "ingest needs no home",
        "workers need one, and the error is one sentence",
        "workers need nothing in it, as in a container",
    ],
)
def test_a_user_id_that_the_system_does_not_know(
    others_python: str, others_folder: Path, stage: str, home: str | None, expected: str
) -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": sysconfig.get_path("purelib")}
    flags = ["--output", others_folder / "out", "--align", "none", "--set", "cluster.workers=1"]
    done = subprocess.run(
        [*UNKNOWN_USER, others_python, "-m", f"pipeline.{stage}", "--input", others_folder / "in", *flags],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment | ({"HOME": home} if home else {}),
        check=False,
    )
    assert expected in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_system_without_file_locks_is_named_in_one_sentence() -> None:
    code = "import sys; sys.modules['fcntl'] = None; import pipeline.command"  # stands in for Windows
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (
        1,
        "error: this system has no file locks of POSIX; on Windows, use WSL\n",
    )


@pytest.mark.parametrize(
    ("model", "named"),
    [("retinaface_mobile0.25", True), ("bisenet", False)],
    ids=["the detector's, which aligned pictures do not need", "the parser's, which all need"],
)
def test_weights_that_cannot_be_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, named: bool
) -> None:
    def offline(*_: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("common.weights._from_release", offline)
    monkeypatch.setattr("common.weights._from_registry", offline)
    with pytest.raises(UserError, match="could not be fetched") as error:
        find(model, load(settings=[f"weights.cache={tmp_path}"]).weights)
    assert ("--align none" in str(error.value)) == named


def test_the_detector_loads_where_torch_is_told_to_load_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    done = subprocess.run([sys.executable, "-c", BOTH], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stdout.strip() == "loaded", done.stderr
