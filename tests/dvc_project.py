"""A copy of the project in which tests run DVC."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from common.config import load
from common.freshness import ROOT


def copy_project(copy: Path, packages: Sequence[str], stages: Sequence[str], settings: Sequence[str]) -> None:
    """Copy some packages of the project and some stages of its graph, with other settings, for DVC."""
    for name in packages:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".dvcignore", copy)
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    part = {"vars": ["params.yaml"], "stages": {name: graph[name] for name in stages}}
    (copy / "dvc.yaml").write_text(yaml.safe_dump(part))
    configure(copy, settings)
    dvc(copy, "init", "--no-scm", "--quiet")


def configure(project: Path, settings: Sequence[str]) -> None:
    """Write the default parameters with other settings."""
    values = load(settings=settings).model_dump(mode="json")
    (project / "params.yaml").write_text(yaml.safe_dump(values, allow_unicode=True))


def dvc(project: Path, *arguments: str) -> str:
    """The output of DVC, which succeeds."""
    with start_dvc(project, *arguments) as running:
        output, _ = running.communicate()
    assert running.returncode == 0, output
    return output


def start_dvc(project: Path, *arguments: str) -> "subprocess.Popen[str]":
    """DVC in a process group of its own; its stages call the Python of this test."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.Popen(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=project,
        env=os.environ | {"PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
