"""The direction of imports, and that DVC's stages depend on the code that they run."""

import ast
import shlex
from collections.abc import Mapping
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

Imports = Mapping[str, set[str]]
"""By module, the names that it imports, such as ``training.data.loader.load``."""


def project_imports() -> dict[str, set[str]]:
    found = {}
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            parts = file.relative_to(ROOT).with_suffix("").parts
            module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            names = imports(ast.parse(file.read_bytes()), ".".join(parts[:-1]))
            found[module] = {
                name for name in names if name.split(".")[0] in (*PACKAGES, "tests", "benchmarks")
            }
    return found


def room(name: str) -> str:
    """The folder below the package, such as ``training.data``; a module beside the folders is a room."""
    return ".".join(name.split(".")[:2])


def package_violations(modules: Imports) -> list[str]:
    return [
        f"{module} imports {name}"
        for module, names in modules.items()
        for name in sorted(names)
        if name.split(".")[0] not in ALLOWED.get(room(module), ALLOWED[module.split(".")[0]])
    ]


def layer_violations(modules: Imports) -> list[str]:
    depth = {f"training.{name}": number for number, layer in enumerate(LAYERS) for name in layer}
    return [
        f"{module} imports {name}"
        for module, names in modules.items()
        for name in sorted(names)
        if room(module) in depth and room(name) in depth and room(name) != room(module)
        if depth[room(name)] <= depth[room(module)]
    ]


def private_imports(modules: Imports) -> list[str]:
    return [
        f"{module} imports {name}"
        for module, names in modules.items()
        for name in sorted(names)
        if room(name) != room(module)
        if any(part.startswith("_") and not part.startswith("__") for part in name.split("."))
    ]


def cycle_of_rooms(modules: Imports) -> list[str]:
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


def test_every_room_of_training_has_a_layer():
    rooms = {room(module) for module in project_imports() if module.startswith("training.")}
    assert rooms == {f"training.{name}" for layer in LAYERS for name in layer}


def test_packages_import_only_what_they_may():
    assert package_violations(project_imports()) == []


def test_training_imports_only_downwards():
    assert layer_violations(project_imports()) == []


def test_no_room_imports_a_private_name_of_another():
    assert private_imports(project_imports()) == []


def test_rooms_import_each_other_in_no_cycle():
    assert cycle_of_rooms(project_imports()) == []


@pytest.mark.parametrize(
    ("violations", "module", "name"),
    [
        (package_violations, "pipeline.card.page", "training.report.page"),
        (package_violations, "training.data.samples", "pipeline.ingest.plan"),
        (package_violations, "common.files", "training.data"),
        (package_violations, "common.alignment.warp", "synthetic.paint"),
        (package_violations, "common.parsing.parser", "pipeline.parse.shard"),
        (package_violations, "synthetic.paint", "pipeline.ingest.plan"),
        (package_violations, "training.run", "tests.conftest"),
        (layer_violations, "training.models.spl", "training.pretrain.model.PretrainModel"),
        (layer_violations, "training.data.loader", "training.engine.optim"),
        (layer_violations, "training.predict.predictor", "training.explain.attribution"),
        (layer_violations, "training.study.results", "training.run"),
    ],
)
def test_a_wrong_import_is_found(violations, module, name):
    assert violations({module: {name}}) == [f"{module} imports {name}"]


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


def test_private_imports_and_cycles_are_found():
    assert private_imports({"training.report.page": {"training.data.loader._Reader"}})
    assert not private_imports({"training.data.samples": {"training.data.loader._Reader"}})
    crossed = {"pipeline.align.stage": {"pipeline.parse.stage"}, "pipeline.parse.stage": {"pipeline.align"}}
    assert set(cycle_of_rooms(crossed)) == {"pipeline.align", "pipeline.parse"}


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
def test_a_stage_depends_on_all_code_that_it_runs(name):
    assert uncovered(STAGES[name]) == []


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_no_room_that_it_does_not_run(name):
    assert unused(STAGES[name]) == []


@pytest.mark.parametrize("name", [name for name, stage in STAGES.items() if "training.run" in stage["cmd"]])
def test_a_dependency_that_is_left_out_is_found(name):
    stage = STAGES[name]
    for dep in stage["deps"]:
        if dep.startswith(("training/", "common")):
            assert uncovered({**stage, "deps": [each for each in stage["deps"] if each != dep]})


def test_a_dependency_that_nothing_imports_is_found():
    stage = STAGES["finetune"]
    assert unused({**stage, "deps": [*stage["deps"], "training/report"]}) == ["training/report"]


def test_stages_of_training_do_not_run_each_others_code():
    rooms = {name: {str(file.parent) for file in code_of(STAGES[name]["cmd"])} for name in run.STAGES}
    assert "training/pretrain" not in rooms["finetune"]
    assert "training/methods" not in rooms["pretrain"]
    assert not {"training/pretrain", "training/methods"} & rooms["evaluate"]
