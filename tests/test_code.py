"""The hash of the code that made a result: what it covers, and what leaves it as it is."""

import shutil
from pathlib import Path

import pytest

from common.freshness import ROOT, code_hash, imported_modules

FILES = {
    "app/__init__.py": "",
    "app/store/__init__.py": "",
    "app/store/schema.py": '"""The schema."""\nYEAR = 1990\n"""Of the release."""\n',
    "app/store/labels.yaml": "colour: red\n",
    "app/store/templates/label.html.j2": "<b>{{ colour }}</b>\n",
    "app/store/notes.md": "To be done.\n",
    "app/main.py": "import os\nfrom . import worker\nfrom .store.schema import YEAR\n",
    "app/worker.py": "def work():\n    import app.timing\n    from app.main import YEAR\n",
    "app/timing.py": "import json, numpy\n",
    "app/other.py": "import app.main\n",
}
MAIN = sorted(name for name in FILES if name not in ("app/store/notes.md", "app/other.py"))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def edited(project: Path, name: str, text: str, tmp_path: Path) -> str:
    """The hash of app.main in a copy of the project in which one file holds another text."""
    copy = tmp_path / "copies" / str(len(list(tmp_path.glob("copies/*"))))
    shutil.copytree(project / "app", copy / "app")
    (copy / name).write_text(text)
    return code_hash("app.main", copy)


def test_the_walk_follows_imports_in_functions_and_relative_ones_to_packages_and_data(project: Path) -> None:
    assert [file.as_posix() for file in imported_modules("app.main", project)] == MAIN
    assert [file.as_posix() for file in imported_modules("app.timing", project)] == [
        "app/__init__.py",
        "app/timing.py",
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "app/worker.py",
            'def work():\n    """Work."""\n    import app.timing\n    from app.main import YEAR\n',
        ),
        ("app/timing.py", "# Measures time.\nimport json, \\\n    numpy\n"),
        ("app/store/schema.py", 'YEAR = 1990\n"""Of the first release."""\n'),
        ("app/store/notes.md", "Done.\n"),
        ("app/other.py", "import app.timing\n"),
    ],
)
def test_comments_docstrings_formatting_and_unread_files_do_not_change_the_hash(
    project: Path, tmp_path: Path, name: str, text: str
) -> None:
    assert edited(project, name, text, tmp_path) == code_hash("app.main", project)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("app/store/schema.py", "YEAR = 1991\n"),
        ("app/timing.py", "import numpy, json\n"),
        ("app/store/labels.yaml", "colour: white\n"),
        ("app/store/templates/label.html.j2", "<i>{{ colour }}</i>\n"),
        ("app/store/__init__.py", "import sys\n"),
        ("app/store/more.json", "{}\n"),
    ],
)
def test_an_edit_of_code_or_data_changes_the_hash(
    project: Path, tmp_path: Path, name: str, text: str
) -> None:
    assert edited(project, name, text, tmp_path) != code_hash("app.main", project)


def test_a_string_that_is_a_value_counts(project: Path, tmp_path: Path) -> None:
    hashes = {
        edited(project, "app/timing.py", f"def now():\n    return {text!r}\n", tmp_path) for text in "ab"
    }
    assert len(hashes) == 2


def test_an_unknown_module_is_an_error(project: Path) -> None:
    with pytest.raises(ModuleNotFoundError, match=r"app\.missing"):
        code_hash("app.missing", project)


def test_the_walk_of_this_project_finds_modules_below_its_root() -> None:
    files = imported_modules("training.methods.network")
    assert Path("training/methods/network.py") in files
    assert Path("common/errors.py") in files
    assert all((ROOT / file).is_file() for file in files)
    assert len(code_hash("training.methods.network")) == 64
