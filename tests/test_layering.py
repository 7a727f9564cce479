"""The direction of imports: a room imports only rooms below it, and no neighbour's private names."""

import ast
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter

import pytest

from common.freshness import ROOT, imports

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


def test_every_room_of_training_has_a_layer() -> None:
    rooms = {room(module) for module in project_imports() if module.startswith("training.")}
    assert rooms == {f"training.{name}" for layer in LAYERS for name in layer}


def test_packages_import_only_what_they_may() -> None:
    assert package_violations(project_imports()) == []


def test_training_imports_only_downwards() -> None:
    assert layer_violations(project_imports()) == []


def test_no_room_imports_a_private_name_of_another() -> None:
    assert private_imports(project_imports()) == []


def test_rooms_import_each_other_in_no_cycle() -> None:
    assert cycle_of_rooms(project_imports()) == []


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("pipeline.card.page", "training.report.page"),
        ("training.data.samples", "pipeline.ingest.plan"),
        ("common.files", "training.data"),
        ("common.alignment.warp", "synthetic.paint"),
        ("common.parsing.parser", "pipeline.parse.shard"),
        ("synthetic.paint", "pipeline.ingest.plan"),
        ("training.run", "tests.conftest"),
    ],
)
def test_an_import_of_another_package_is_found(module: str, name: str) -> None:
    assert package_violations({module: {name}}) == [f"{module} imports {name}"]


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("training.models.spl", "training.pretrain.model.PretrainModel"),
        ("training.data.loader", "training.engine.optim"),
        ("training.predict.predictor", "training.explain.attribution"),
        ("training.study.results", "training.run"),
    ],
)
def test_an_import_upwards_or_sideways_is_found(module: str, name: str) -> None:
    assert layer_violations({module: {name}}) == [f"{module} imports {name}"]


def test_private_imports_and_cycles_are_found() -> None:
    assert private_imports({"training.report.page": {"training.data.loader._Reader"}})
    assert not private_imports({"training.data.samples": {"training.data.loader._Reader"}})
    crossed = {"pipeline.align.stage": {"pipeline.parse.stage"}, "pipeline.parse.stage": {"pipeline.align"}}
    assert set(cycle_of_rooms(crossed)) == {"pipeline.align", "pipeline.parse"}
