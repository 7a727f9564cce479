"""``python -m pipeline.use DIR``: point params.yaml, and so ``dvc repro``, at a folder of photos."""

import argparse
from io import StringIO
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from common.command import run
from common.config import PARAMS
from common.errors import UserError
from common.files import write_text
from common.layout import dataset_name
from common.storage import check_utf8


def use(folder: Path, params: Path = PARAMS) -> None:
    """Write ``data.input`` and ``data.name`` into `params`; everything else in it stays as it is.

    Raises:
        UserError: the folder does not exist, or its path is not UTF-8.
    """
    check_utf8("INPUT", str(folder))
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; name a folder of photos")
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096  # no line is wrapped
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.add_representer(
        type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    values = yaml.load(params.read_text(encoding="utf-8"))
    name = dataset_name(folder)
    # Quoted, because folders may be called 2020, null or yes.
    values["data"]["input"] = DoubleQuotedScalarString(str(folder))
    values["data"]["name"] = DoubleQuotedScalarString(name)
    text = StringIO()
    yaml.dump(values, text)
    write_text(params, text.getvalue())
    print(f"{params.name}: data.input is now {folder}, data.name {name}")


def main() -> None:
    """Read the command line and edit the file."""
    parser = argparse.ArgumentParser(description="Point params.yaml at a folder of photos.")
    parser.add_argument("folder", type=Path, help="folder of photos, or a data set in CelebA's layout")
    use(parser.parse_args().folder)


if __name__ == "__main__":
    run(main)
