"""The flags that every pipeline command takes, and what they mean."""

import argparse
import json
from typing import Final, get_args

from common import command
from common.config import Config
from common.layout import DEFAULT_SHARDS, Layout, dataset_name
from common.pipeline_config import InputFormat
from common.storage import address

FILES: Final = (".csv", ".parquet", ".tar")
"""Inputs that are one file; their data set is named without the ending."""


def parse_arguments(description: str, module: str) -> tuple[Config, Layout, bool]:
    """Read the command line, see `read_options`."""
    return read_options(arguments(description, module).parse_args())


def arguments(description: str, module: str) -> argparse.ArgumentParser:
    """The flags that all pipeline commands have."""
    examples = (
        f"  python -m {module} --input celeba/\n"
        f"  python -m {module} --input photos/ --align detect --output OUT --limit 100\n"
        f"  python -m {module} --input celeba/ --set parse.size=512 --scheduler tcp://10.0.0.1:8786"
    )
    parser = command.parser(description, examples)
    parser.add_argument(
        "--input",
        metavar="DIR",
        help="start from this folder of images, table of paths (.csv, .parquet), tar, or fsspec address "
        "(s3://bucket/celeba) of one; without it, from the manifest",
    )
    parser.add_argument(
        "--format", choices=get_args(InputFormat), help="the input's layout (default: recognise it)"
    )
    parser.add_argument(
        "--output",
        type=str,
        default=str(DEFAULT_SHARDS),
        metavar="DIR",
        help="folder or address (s3://bucket/celeba) for shards, with their manifests in its manifests/ "
        "(default: shards/ and manifests/)",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N inputs")
    parser.add_argument(
        "--align",
        choices=("detect", "none"),
        help="find and warp the face, or take the image's central square as it is",
    )
    parser.add_argument(
        "--scheduler", metavar="ADDRESS", help="join this Dask cluster instead of a local one"
    )
    return parser


def read_options(options: argparse.Namespace) -> tuple[Config, Layout, bool]:
    """What the flags mean.

    Returns:
        The configuration, the output's layout, and whether to start from the input
        folder (--input was given) rather than from the manifest.

    Raises:
        UserError: a value is not allowed.
    """
    config = command.config_from(options, _settings(options))
    return config, Layout.at(options.output), options.input is not None


def _settings(options: argparse.Namespace) -> list[str]:
    flags = {
        "data.input": options.input,
        "ingest.format": options.format,
        "ingest.limit": options.limit,
        "align.mode": options.align,
        "cluster.scheduler": options.scheduler,
    }
    settings = [f"{key}={json.dumps(value)}" for key, value in flags.items() if value is not None]
    if options.input is not None:
        settings.append(f"data.name={json.dumps(_name(options.input))}")
    return settings


def _name(text: str) -> str:
    place = address(text)
    return dataset_name(place.with_suffix("") if place.suffix.lower() in FILES else place)
