"""``python -m pipeline.use INPUT``: point params.yaml, and so ``dvc repro``, at an input."""

import argparse
from io import StringIO
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from common.command import run
from common.config import PARAMS
from common.errors import UserError
from common.files import write_text
from common.storage import address, check_utf8, is_file, is_folder
from pipeline.command import FILES, name_of_input


def use(text: str, params: Path = PARAMS) -> None:
    """Write ``data.input`` and ``data.name`` into `params`; everything else in it stays as it is.

    Raises:
        UserError: the input `text` does not exist, or its path is not UTF-8.
    """
    check_utf8("INPUT", text)
    if not is_folder(path := address(text)) and not (is_file(path) and path.suffix.lower() in FILES):
        raise UserError(f"{text} is not a folder; name a folder of photos, or a {', '.join(FILES)} file")
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096  # no line is wrapped
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.add_representer(
        type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    values = yaml.load(params.read_text(encoding="utf-8"))
    name = name_of_input(text)
    # Quoted, because folders may be called 2020, null or yes.
    values["data"]["input"] = DoubleQuotedScalarString(text)
    values["data"]["name"] = DoubleQuotedScalarString(name)
    edited = StringIO()
    yaml.dump(values, edited)
    write_text(params, edited.getvalue())
    print(f"{params.name}: data.input is now {text}, data.name {name}")


def main() -> None:
    """Read the command line and edit the file."""
    parser = argparse.ArgumentParser(description="Point params.yaml at an input.")
    parser.add_argument(
        "input", help="folder of photos, data set, table of paths, tar, or the address of one (s3://...)"
    )
    use(parser.parse_args().input)


if __name__ == "__main__":
    run(main)
