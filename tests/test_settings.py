"""Settings are read strictly, described in the documents, and few; help and installation need little."""

import os
import re
import subprocess
import tomllib
from fnmatch import fnmatch

import pytest

from common.config import load
from common.errors import UserError
from common.strict_yaml import parse_yaml
from docs import tables
from tests.commands import ROOT, run_python
from tests.test_documents import DOCUMENTS

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
COMMANDS = sorted(
    {file.parent.relative_to(ROOT).as_posix().replace("/", ".") for file in ROOT.glob("*/*/__main__.py")}
    | {f"training.{name}" for name in ("run", "audit", "suggest", "embed")}
    | {"pipeline.graph", "synthetic"}
)
HEAVY = {"torch", "dask", "distributed", "pyarrow", "duckdb", "matplotlib", "sklearn", "onnxruntime"}


def test_help_and_wrong_arguments_import_nothing_heavy():
    code = """if True:
        import runpy, sys
        calls, heavy = eval(sys.argv[1])
        for module, flag, status in calls:
            sys.argv = [module, flag]
            try:
                runpy.run_module(module, run_name="__main__", alter_sys=True)
            except SystemExit as end:
                assert (end.code or 0, heavy & sys.modules.keys()) == (status, set()), module
    """
    calls = [*((module, "--help", 0) for module in COMMANDS), ("training.predict", "--no-such-flag", 2)]
    done = run_python(code, (calls, HEAVY))
    assert done.returncode == 0, done.stderr


def test_there_are_at_most_ninety_settings_and_each_has_a_description():
    settings = tables.settings()
    assert len(settings) <= 90
    assert [each.key for each in settings if len(each.description) < 5] == []


@pytest.mark.parametrize("file", tables.TABLES, ids=lambda file: file.name)
def test_the_tables_of_the_documents_are_those_of_the_data(file):
    assert tables.up_to_date(file) == file.read_text(encoding="utf-8"), "run `make docs`"


def test_the_documents_are_short():
    words = {file: len(file.read_text(encoding="utf-8").split()) for file in DOCUMENTS}
    assert words[ROOT / "README.md"] <= 900
    assert sum(words.values()) <= 10_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: {c: 1, c: 2}", "here, line 2: c is there twice"),
        ("a: &x [1]\nb: *x", "here, line 2: aliases are not allowed"),
        ("010", "write 010 without the zeros"),
        ("[" * 5000, "here: not YAML"),
        ("a: {", "here: "),
    ],
)
def test_scalars_are_what_they_look_like_and_slips_are_errors(text, message):
    values = [0.001, -25.0, 0.5, 7, 0, "010", "1:30"]
    assert parse_yaml("[1e-3, -2.5E+1, .5, 7, 0, '010', 1:30]", "here") == values
    with pytest.raises(UserError, match=message):
        parse_yaml(text, "here")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("parse.sise=512", "parse.sise"),
        ("parse.size=big", "parse.size"),
        ("parse.size=450", "parse.size"),
        ("parse=3", "parse is a section"),
        ("pretrain.steps=010", "--set pretrain.steps=010: write 010 without"),
        ("parse.size", "key=value"),
        ("nonsense.x=1", "unknown key nonsense"),
        ("pretrain.patch_fraction=[0.9, 0.1]", "patch_fraction"),
        ("parse.size={", "parse.size={: expected"),
        ("ingest.val_fraction=0.99", "together are more than 1"),
        ("finetune.runs=[{labels: 150%, steps: 1}]", "less than or equal to 1"),
    ],
)
def test_a_wrong_setting_is_an_error_that_names_the_key(setting, message):
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        load(settings=[setting])


def test_files_go_over_params_and_settings_over_files(tmp_path):
    text = "parse: {size: 512, parser: onnx}\ncluster: {resources: {GPU: 1.0}}\n"
    (tmp_path / "mine.yaml").write_text(text)
    config = load([tmp_path / "mine.yaml"], ["parse.parser=parsenet", "cluster.resources.memory=2.0"])
    assert (config.parse.size, config.parse.parser) == (512, "parsenet")
    assert config.parse.precision == load().parse.precision
    assert config.cluster.resources == {"GPU": 1.0, "memory": 2.0}
    (tmp_path / "typo.yaml").write_text("parse: {sice: 512}\n")
    for name, message in (("typo.yaml", r"typo\.yaml.*parse\.sice"), ("none.yaml", r"none\.yaml")):
        with pytest.raises(UserError, match=message):
            load([tmp_path / name])


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("stream.cache=~/cache", "/home/of/cache"),
        ("weights.parser=~/parser.onnx", "/home/of/parser.onnx"),
        ("data.input=~/photos", "/home/of/photos"),
        ("data.input=s3://bucket/~", "s3://bucket/~"),
        ("finetune.runs=[{labels: ~/five.txt, steps: 1}]", "/home/of/five.txt"),
        ("finetune.runs=[{labels: 5%, steps: 1}]", 0.05),
        ("finetune.runs=[{labels: 0.05, steps: 1}]", 0.05),
    ],
)
def test_paths_begin_at_home_and_shares_may_be_percentages(setting, value, monkeypatch):
    monkeypatch.setenv("HOME", "/home/of")
    section, _, name = setting.partition("=")[0].partition(".")
    found = getattr(getattr(load(settings=[setting]), section), name)
    assert (found[0].labels if name == "runs" else found) == value


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}],
    ids=["ascii", "POSIX"],
)
def test_a_name_that_the_output_cannot_show_ends_no_command(environment):
    code = r"from common.command import run; run(lambda: print('m\xfcller \u65e5 \udcff'))"
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG"))}
    done = run_python(code, env=variables | environment, text=False, check=True)
    # Without UTF-8 in the locale the command starts again in UTF-8, unless Python's own variable says ASCII.
    escaped = "PYTHONIOENCODING" in environment
    assert done.stdout == (b"m\\xfcller \\u65e5" if escaped else "m\xfcller \u65e5".encode()) + b" \\udcff\n"


def test_an_installation_has_every_file_of_the_packages():
    setuptools, packages = PROJECT["tool"]["setuptools"], ("common", "pipeline", "synthetic", "training")
    command = ["git", "ls-files", *packages]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    patterns = ["*.py", *setuptools["package-data"]["*"]]
    assert [file for file in listed if not any(fnmatch(file, pattern) for pattern in patterns)] == []
    assert setuptools["packages"]["find"]["include"] == [f"{package}*" for package in packages]


def test_every_dependency_has_a_pinned_version_and_no_registry_is_named():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = [re.fullmatch(r"([\w.-]+)==[\w.+]+", line) for line in lines if not line.startswith("#")]
    assert all(pins)
    extras = PROJECT["project"]["optional-dependencies"].items()
    optional = [each for name, extra in extras if name != "dev" for each in extra]
    required = [re.split(r"[\[>=]", each)[0] for each in (*PROJECT["project"]["dependencies"], *optional)]
    pinned, names = (
        {name.lower().replace("_", "-") for name in found}
        for found in ([pin[1] for pin in pins if pin], required)
    )
    assert names <= pinned
