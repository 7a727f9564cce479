"""DVC runs a stage again after an edit of any code that its command runs, and of no other room."""

import ast
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.freshness import ROOT, imported_modules, imports
from training import run

STAGES: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def code_of(commands: str | list[str]) -> set[Path]:
    """The project's files with code that the commands of a stage of dvc.yaml depend on."""
    if isinstance(commands, list):
        return set().union(*map(code_of, commands))
    words = shlex.split(commands)
    module = words[words.index("-m") + 1]
    if module == "training.run":
        names = _imports_of_stage(words[words.index("--stage") + 1])
        files = {Path("training/run.py"), *(file for name in names for file in _closure(name))}
    else:
        is_package = ROOT.joinpath(*module.split(".")).is_dir()
        files = set(imported_modules(f"{module}.__main__" if is_package else module))
    return {file for file in files if file.suffix != ".py" or _has_code(file)}


def _closure(name: str) -> list[Path]:
    try:
        return imported_modules(name)
    except ModuleNotFoundError:
        return []


def _imports_of_stage(stage: str) -> set[str]:
    """What training/run.py imports for one stage: everything but the imports in functions of other stages."""
    tree = ast.parse(Path(run.__file__).read_bytes())
    called = {"main", run.STAGES[stage].__name__}
    tree.body = [node for node in tree.body if not isinstance(node, ast.FunctionDef) or node.name in called]
    return imports(tree, "training")


def _has_code(file: Path) -> bool:
    """Whether a module holds more than a docstring; a package's ``__init__.py`` often does not."""
    return len(ast.parse((ROOT / file).read_bytes()).body) > 1


def uncovered(stage: dict[str, Any]) -> list[str]:
    """The code that a stage's command runs and that no entry of its ``deps`` covers."""
    deps = [Path(dep) for dep in stage["deps"]]
    return sorted(
        str(file) for file in code_of(stage["cmd"]) if not any(file.is_relative_to(dep) for dep in deps)
    )


def unused(stage: dict[str, Any]) -> list[str]:
    """The code among a stage's ``deps`` of which its command runs nothing."""
    code = code_of(stage["cmd"])
    packages = {"common", "pipeline", "synthetic", "training"}
    deps = [Path(dep) for dep in stage["deps"] if dep.split("/")[0] in packages]
    return [str(dep) for dep in deps if not any(file.is_relative_to(dep) for file in code)]


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_all_code_that_it_runs(name: str) -> None:
    assert uncovered(STAGES[name]) == []


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_no_room_that_it_does_not_run(name: str) -> None:
    assert unused(STAGES[name]) == []


@pytest.mark.parametrize("name", [name for name, stage in STAGES.items() if "training.run" in stage["cmd"]])
def test_a_dependency_that_is_left_out_is_found(name: str) -> None:
    stage = STAGES[name]
    for dep in stage["deps"]:
        if dep.startswith(("training/", "common")):
            assert uncovered({**stage, "deps": [each for each in stage["deps"] if each != dep]})


def test_a_dependency_that_nothing_imports_is_found() -> None:
    stage = STAGES["finetune"]
    assert unused({**stage, "deps": [*stage["deps"], "training/report"]}) == ["training/report"]


def test_stages_of_training_do_not_run_each_others_code() -> None:
    rooms = {name: {str(file.parent) for file in code_of(STAGES[name]["cmd"])} for name in run.STAGES}
    assert "training/pretrain" not in rooms["finetune"]
    assert "training/methods" not in rooms["pretrain"]
    assert not {"training/pretrain", "training/methods"} & rooms["evaluate"]
