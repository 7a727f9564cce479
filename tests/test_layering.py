"""The direction of imports, and that DVC's stages depend on the code that they run."""

import ast
import re
import shlex
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.freshness import ROOT, imported_modules, imports
from tests.commands import run_python
from training import run

PACKAGES = ("common", "pipeline", "synthetic", "training")
ALLOWED = {
    "common": {"common"},
    "common.parsing": {"common", "synthetic"},
    "synthetic": {"common", "synthetic"},
    "pipeline": {"common", "pipeline", "synthetic"},
    "training": {"common", "training"},
}
"""Which packages each package, or a room of it, may import; the int8 parser is calibrated on portraits."""
LAYERS = (
    {"audit", "embed", "fit", "run", "suggest"},
    {"report"},
    {"study"},
    {"explain", "export", "label"},
    {"predict"},
    {"evaluate"},
    {"methods"},
    {"pretrain"},
    {"models"},
    {"engine"},
    {"data"},
)
"""The rooms of training from top to bottom; those of one layer do not import each other."""


@cache
def project_imports() -> dict[str, set[str]]:
    """By module, the names of the project that it imports, such as ``training.data.loader.load``."""
    found = {}
    for file in (file for package in PACKAGES for file in (ROOT / package).rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        names = imports(ast.parse(file.read_bytes()), ".".join(parts[:-1]))
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[module] = {name for name in names if name.split(".")[0] in (*PACKAGES, "tests", "benchmarks")}
    return found


def room(name: str) -> str:
    """The folder below the package, such as ``training.data``; a module beside the folders is a room."""
    return ".".join(name.split(".")[:2])


DEPTH = {f"training.{name}": number for number, layer in enumerate(LAYERS) for name in layer}


def is_foreign(module: str, name: str) -> bool:
    """Whether the package may not import the other one."""
    return name.split(".")[0] not in ALLOWED.get(room(module), ALLOWED[module.split(".")[0]])


def is_upwards(module: str, name: str) -> bool:
    """Whether a room of training imports one that is not below it."""
    one, other = room(module), room(name)
    return one != other and {one, other} <= DEPTH.keys() and DEPTH[other] <= DEPTH[one]


def is_private(module: str, name: str) -> bool:
    """Whether the name is another room's alone."""
    parts = name.split(".")
    return room(name) != room(module) and any(re.match("_(?!_)", part) for part in parts)


@pytest.mark.parametrize("is_wrong", [is_foreign, is_upwards, is_private])
def test_modules_import_only_what_they_may(is_wrong):
    pairs = [(module, name) for module, names in project_imports().items() for name in names]
    assert [f"{module} imports {name}" for module, name in pairs if is_wrong(module, name)] == []


def cycle_of_rooms(modules: Mapping[str, set[str]]) -> list[str]:
    """The rooms of one cycle of imports, empty if there is none."""
    graph: dict[str, set[str]] = {}
    for module, names in modules.items():
        graph.setdefault(room(module), set()).update(room(name) for name in names if "." in name)
        graph[room(module)].discard(room(module))
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


@pytest.mark.parametrize(
    ("is_wrong", "module", "name"),
    [
        (is_foreign, "pipeline.card.page", "training.report.page"),
        (is_foreign, "training.data.samples", "pipeline.ingest.plan"),
        (is_foreign, "common.alignment.warp", "synthetic.paint"),
        (is_foreign, "common.parsing.parser", "pipeline.parse.shard"),
        (is_foreign, "training.run", "tests.conftest"),
        (is_upwards, "training.models.spl", "training.pretrain.model.PretrainModel"),
        (is_upwards, "training.predict.predictor", "training.explain.attribution"),
        (is_private, "training.report.page", "training.data.loader._Reader"),
    ],
)
def test_a_wrong_import_is_found(is_wrong, module, name):
    assert is_wrong(module, name)


def test_rooms_import_each_other_in_no_cycle_and_those_of_training_have_layers():
    assert cycle_of_rooms(project_imports()) == []
    crossed = {"pipeline.align.stage": {"pipeline.parse.stage"}, "pipeline.parse.stage": {"pipeline.align"}}
    assert set(cycle_of_rooms(crossed)) == {"pipeline.align", "pipeline.parse"}
    rooms = {room(module) for module in project_imports() if module.startswith("training.")}
    assert rooms == DEPTH.keys()


def test_training_and_prediction_load_neither_the_pipeline_nor_a_parser():
    code = """if True:
        import sys
        def loaded(*packages):
            return [n for n in sys.modules if f"{n}.".startswith(tuple(f"{name}." for name in packages))]
        foreign = ("pipeline", "dask", "distributed", "common.parsing")
        import training.run, training.pretrain.train, training.methods.runs
        import training.evaluate.evaluate, training.report.page
        print(loaded(*foreign, "facexlib"))
        import training.predict, training.export
        print(loaded(*foreign, "facexlib.parsing"))
    """
    assert run_python(code, check=True).stdout.split() == ["[]", "[]"]


STAGES: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


@cache
def code_of(command: str) -> set[Path]:
    """The project's files with code that a command of dvc.yaml depends on."""
    words = shlex.split(command)
    module = words[words.index("-m") + 1]
    if module == "training.run":
        files = {Path("training/run.py")}
        for name in _imports_of_stage(words[words.index("--stage") + 1]):
            with suppress(ModuleNotFoundError):
                files |= set(imported_modules(name))
    else:
        is_package = ROOT.joinpath(*module.split(".")).is_dir()
        files = set(imported_modules(f"{module}.__main__" if is_package else module))
    # A package's __init__.py often holds a docstring alone.
    return {file for file in files if file.suffix != ".py" or ast.parse((ROOT / file).read_bytes()).body[1:]}


def code_run(stage: dict[str, Any]) -> set[Path]:
    """The files of all commands of a stage."""
    commands = [stage["cmd"]] if isinstance(stage["cmd"], str) else stage["cmd"]
    return set().union(*map(code_of, commands))


def _imports_of_stage(stage: str) -> set[str]:
    """What training/run.py imports for one stage: everything but the imports in functions of other stages."""
    tree = ast.parse(Path(run.__file__).read_bytes())
    called = {"main", run.STAGES[stage].__name__}
    tree.body = [node for node in tree.body if not isinstance(node, ast.FunctionDef) or node.name in called]
    return imports(tree, "training")


def uncovered(stage: dict[str, Any]) -> list[str]:
    """The code that a stage's command runs and that no entry of its ``deps`` covers."""
    deps = [Path(dep) for dep in stage["deps"]]
    return sorted(str(file) for file in code_run(stage) if not any(file.is_relative_to(dep) for dep in deps))


def unused(stage: dict[str, Any]) -> list[str]:
    """The code among a stage's ``deps`` of which its command runs nothing."""
    code, deps = code_run(stage), [dep for dep in stage["deps"] if dep.split("/")[0] in PACKAGES]
    return [dep for dep in deps if not any(file.is_relative_to(dep) for file in code)]


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_all_code_that_it_runs_and_no_other_room(name):
    assert uncovered(STAGES[name]) == unused(STAGES[name]) == []


@pytest.mark.parametrize("name", [name for name, stage in STAGES.items() if "training.run" in stage["cmd"]])
def test_a_dependency_that_is_left_out_or_that_nothing_imports_is_found(name):
    stage = STAGES[name]
    for dep in stage["deps"]:
        if dep.startswith(("training/", "common")):
            assert uncovered({**stage, "deps": [each for each in stage["deps"] if each != dep]})
    assert unused({**stage, "deps": [*stage["deps"], "training/fit"]}) == ["training/fit"]


def test_stages_of_training_do_not_run_each_others_code():
    rooms = {name: {str(file.parent) for file in code_run(STAGES[name])} for name in run.STAGES}
    assert "training/pretrain" not in rooms["finetune"]
    assert "training/methods" not in rooms["pretrain"]
    assert not {"training/pretrain", "training/methods"} & rooms["evaluate"]
