"""Unusual environments: weights are found and loaded, or one sentence says why not."""

import subprocess
import sys
from pathlib import Path

import pytest

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
