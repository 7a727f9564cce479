"""Commands, options, paths, settings and links that the documents name exist."""

import re
import runpy
import subprocess
import sys
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml

from tests.commands import ROOT

DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "shards/README.md",
    ROOT / "manifests/README.md",
]
FOLDERS = ("benchmarks", "common", "docs", "pipeline", "presets", "synthetic", "tests", "training")
"""Folders that hold only files of the repository."""

PARAMS: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())


def code(text: str) -> list[str]:
    """The lines of code blocks, without trailing comments, and the spans of inline code."""
    fence = re.compile(r"^```.*?\n(.*?)^```", re.MULTILINE | re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in fence.findall(text) for line in block.splitlines()]
    prose = fence.sub("", text)
    lines += re.findall(r"^ {4}(\S.*)$", prose, re.MULTILINE)
    return [*lines, *(span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", prose))]


def unknown_commands(text: str) -> list[str]:
    """Modules that ``python -m`` cannot run, options that no help lists, missing make targets."""
    wrong = []
    for line in code(text):
        for module, arguments in re.findall(r"(?:python|torchrun \S+ \S+) -m ([\w.]+)([^|]*)", line):
            if not is_command(module):
                wrong.append(f"python -m {module}")
                continue
            options = re.findall(r"(?<!\S)--[a-z][\w-]*", arguments)
            wrong += [f"{module} {o}" for o in options if not re.search(rf"{o}\b(?!-)", usage(module))]
        for option in re.findall(r"^(--[a-z][\w-]*)", line):
            if not any(option in usage(module) for module in documented_commands()):
                wrong.append(option)
        for target in re.findall(r"^make (\w+)", line):
            if not re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE):
                wrong.append(f"make {target}")
    return wrong


@cache
def documented_commands() -> list[str]:
    """The modules that ``docs/commands.md`` lists as commands."""
    text = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    return sorted(set(re.findall(r"`python -m ([\w.]+)", text)))


def is_command(module: str) -> bool:
    """Whether ``python -m`` can run the module."""
    path = ROOT.joinpath(*module.split("."))
    return path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


@cache
def usage(module: str) -> str:
    """What a command prints for ``--help``."""
    out = StringIO()
    with patch.object(sys, "argv", [module, "--help"]), redirect_stdout(out), pytest.raises(SystemExit):
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    return out.getvalue()


def unknown_paths(text: str) -> list[str]:
    """Paths below `FOLDERS`, and files of the root, that do not exist."""
    words = [word.rstrip(".,;:") for span in code(text) for word in re.findall(r"[^\s\"'(){}=]+", span)]
    paths = [word for word in words if word.split("/")[0] in FOLDERS and "/" in word]
    paths += [word for word in words if re.fullmatch(r"(params|dvc)\.yaml|Makefile|pyproject\.toml", word)]
    return [path for path in paths if not exists(path)]


def exists(path: str) -> bool:
    """Whether a path of the project exists; ``*`` and ``<...>`` stand for anything."""
    pattern = re.sub(r"<[^>]*>", "*", path).rstrip("/")
    return any(ROOT.glob(pattern))


def unknown_settings(text: str) -> list[str]:
    """Keys of ``params.yaml``, such as ``parse.size``, that it does not have."""
    pattern = rf"(?<![\w/.-])((?:{'|'.join(PARAMS)})\.[\w.<>*]+)"
    keys = [key.rstrip(".") for span in code(text) for key in re.findall(pattern, span)]
    files = (".yaml", ".json", ".onnx", ".jpg", ".py", ".parquet", ".csv")
    return [key for key in keys if not key.endswith(files) and not has_key(PARAMS, key.split("."))]


def has_key(values: Any, names: list[str]) -> bool:
    """Whether nested mappings have a key; ``*`` and ``<...>`` stand for any."""
    if not names or not isinstance(values, dict):
        return not names
    if names[0] == "*" or names[0].startswith("<"):
        return any(has_key(value, names[1:]) for value in values.values())
    return names[0] in values and has_key(values[names[0]], names[1:])


def broken_links(text: str, folder: Path) -> list[str]:
    """Relative links whose file or heading does not exist."""
    wrong = []
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\((?!https?://)([^)\s]+)\)", prose):
        path, _, anchor = link.partition("#")
        file = folder / path
        if not file.exists() or (anchor and anchor not in headings(file.read_text() if path else text)):
            wrong.append(link)
    return wrong


def headings(text: str) -> set[str]:
    """The anchors that GitHub gives to a document's headings."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_names_exists(document):
    text = document.read_text(encoding="utf-8")
    assert unknown_commands(text) == []
    assert unknown_paths(text) == []
    assert unknown_settings(text) == []
    assert broken_links(text, document.parent) == []


def test_what_does_not_exist_is_noticed():
    text = """# Title
Run `python -m training.nothing`, or `make nothing`; `--nothing`, `--stage finetune`.

```
python -m training.run --stage all --nothing 3   # --comment
torchrun --nproc-per-node 8 -m training.run --missing
```

    python -m pipeline.nothing

`training/nothing.py`, `training/run.py`, `presets/*.yaml`, `parse.size=512`, `parse.nothing`, `pretrain.*`.
[here](#title) [there](#nothing) [file](nothing.md) [self](README.md#title) [self](README.md#nothing)
"""
    assert unknown_commands(text) == [
        "training.run --nothing",
        "training.run --missing",
        "python -m pipeline.nothing",
        "python -m training.nothing",
        "make nothing",
        "--nothing",
    ]
    assert unknown_paths(text) == ["training/nothing.py"]
    assert unknown_settings(text) == ["parse.nothing"]
    assert broken_links(text, ROOT) == ["#nothing", "nothing.md", "README.md#title", "README.md#nothing"]


def test_every_command_is_documented():
    command = ["git", "ls-files", "*/__main__.py"]
    files = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    modules = {file.removesuffix("/__main__.py").replace("/", ".") for file in files}
    assert modules and modules <= set(documented_commands())
