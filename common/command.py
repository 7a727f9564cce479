"""What all commands share: ``--config``, ``--set``, and errors reported as one sentence."""

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from io import TextIOWrapper
from pathlib import Path

from common.config import Config, load
from common.errors import UserError
from common.layout import DEFAULT_SHARDS


def parser(description: str, examples: str, shards: str | None = None) -> argparse.ArgumentParser:
    """An argument parser with --config and --set, and examples below its help.

    With the help of a flag --shards, it has this one too.
    """
    arguments = argparse.ArgumentParser(
        description=description,
        epilog="examples:\n" + examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = partial(arguments.add_argument, action="append", default=[])
    text = "YAML file whose values replace those of params.yaml (repeatable)"
    add("--config", type=Path, metavar="FILE", help=text)
    text = "one value, such as parse.size=512 (repeatable, wins over files)"
    add("--set", metavar="KEY=VALUE", dest="settings", help=text)
    if shards is not None:
        text = f"{shards} (default: {DEFAULT_SHARDS}/)"
        arguments.add_argument("--shards", default=str(DEFAULT_SHARDS), metavar="DIR", help=text)
    return arguments


def config_from(options: argparse.Namespace, settings: list[str] | None = None) -> Config:
    """The configuration of a command, whose own flags are key=value `settings`; errors as of `load`."""
    return load(options.config, [*options.settings, *(settings or [])])


def run(main: Callable[[], None]) -> None:
    """Run a command; exit with status 1 and one sentence on a `UserError` or an `OSError`, 130 on Ctrl-C."""
    if sys.getfilesystemencoding() != "utf-8":  # names of photos are UTF-8, whatever the login's locale is
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    if isinstance(sys.stdout, TextIOWrapper):  # where output is not UTF-8, a name must not end the run
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt as error:
        kept = str(error) or "the same command continues where this one ended"
        print(f"stopped; {kept}", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        sys.exit(1)
