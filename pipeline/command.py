"""The flags that every pipeline command takes, and what they mean."""

import argparse
import json
import re
from typing import Final, get_args

from common import command
from common.config import Config
from common.layout import DEFAULT_SHARDS, Layout
from common.pipeline_config import InputFormat
from common.storage import address, check_utf8

# Inputs that are one file; their data set is named without the ending.
FILES: Final = (".csv", ".parquet", ".tar")


def arguments(description: str, module: str) -> argparse.ArgumentParser:
    """The flags that all pipeline commands have."""
    examples = (
        f"  python -m {module} --input celeba/\n"
        f"  python -m {module} --input photos/ --align detect --output OUT --limit 100\n"
        f"  python -m {module} --input celeba/ --set parse.size=512 --scheduler tcp://10.0.0.1:8786"
    )
    parser = command.parser(description, examples)
    add = parser.add_argument
    text = (
        "start from this folder of images, table of paths (.csv, .parquet), tar, or fsspec address "
        "(s3://bucket/celeba) of one; without it, from the manifest"
    )
    add("--input", metavar="DIR", help=text)
    add("--format", choices=get_args(InputFormat), help="the input's layout (default: recognise it)")
    text = (
        "table (.csv, .parquet) with a column path, relative to the input, whose other columns become "
        "labels of these photos"
    )
    add("--labels", metavar="FILE", help=text)
    text = (
        "folder or address (s3://bucket/celeba) for shards, with their manifests in its manifests/ "
        "(default: shards/ and manifests/)"
    )
    add("--output", default=str(DEFAULT_SHARDS), metavar="DIR", help=text)
    add("--limit", type=int, metavar="N", help="use the first N inputs only")
    text = "find and warp the face, or take the image's central square as it is"
    add("--align", choices=("detect", "none"), help=text)
    add("--scheduler", metavar="ADDRESS", help="join this Dask cluster instead of a local one")
    text = (
        "keep finished shards that other code made, such as an earlier version, instead of making "
        "them again; shards of other inputs or settings are always made again"
    )
    add("--any-code", action="store_true", help=text)
    text = "delete finished shards, and faces in them, that the input or --limit leaves out now"
    add("--prune", action="store_true", help=text)
    return parser


def read_options(flags: argparse.Namespace) -> tuple[Config, Layout]:
    """The configuration that the parsed flags mean, and where the outputs lie.

    Raises:
        UserError: a value is not allowed.
    """
    for flag, value in (("--input", flags.input), ("--labels", flags.labels)):
        check_utf8(flag, value or "")
    values = {
        "data.input": flags.input,
        "data.name": None if flags.input is None else name_of_input(flags.input),
        "ingest.format": flags.format,
        "ingest.labels": flags.labels,
        "ingest.limit": flags.limit,
        "align.mode": flags.align,
        "cluster.scheduler": flags.scheduler,
    }
    # JSON would escape an emoji as two surrogates, which YAML does not join.
    settings = [
        f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items() if value is not None
    ]
    return command.config_from(flags, settings), Layout.at(flags.output)


def name_of_input(text: str) -> str:
    """The name of the data set in an input: that of the folder, with ``_`` for disallowed characters."""
    path = address(text)
    path = path.with_suffix("") if path.suffix.lower() in FILES else path
    return re.sub(r"[^\w.-]", "_", path.resolve().name).lstrip(".") or "photos"
