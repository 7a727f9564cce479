"""``python -m pipeline.use DIR``: point params.yaml, and so ``dvc repro``, at a folder of photos."""

import argparse
import json
import re
from pathlib import Path

from common.command import run
from common.config import PARAMS
from common.errors import UserError
from common.files import write_text
from common.layout import dataset_name


def use(folder: Path) -> None:
    """Write ``data.input`` and ``data.name`` into ``params.yaml``; all else in it stays as it is.

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; name a folder of photos")
    text = PARAMS.read_text(encoding="utf-8")
    name = dataset_name(folder)
    text = _replace(_replace(text, "input", str(folder)), "name", name)
    write_text(PARAMS, text)
    print(f"params.yaml: data.input is now {folder}, data.name {name}")


def _replace(text: str, key: str, value: str) -> str:
    """Change one line of the data section and nothing else, so that comments stay."""
    line = re.compile(rf'(?m)^(data:\n(?:  .*\n)*?  {key}: )("(?:[^"\\]|\\.)*"|[^\s#]+)')
    quoted = json.dumps(value, ensure_ascii=False) if re.search(r"[^\w./-]", value) else value
    return line.sub(lambda found: found[1] + quoted, text, count=1)


def main() -> None:
    """Read the command line and do it."""
    parser = argparse.ArgumentParser(description="Point params.yaml at a folder of photos.")
    parser.add_argument("folder", type=Path, help="folder of photos, or a data set in CelebA's layout")
    use(parser.parse_args().folder)


if __name__ == "__main__":
    run(main)
