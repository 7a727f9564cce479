"""``python -m training.study``: the whole study, or one pre-training, some draws, or the table of it."""

import argparse
import os
from pathlib import Path
from typing import Final

from common import command
from common.errors import UserError
from common.layout import Layout
from common.memory import keep_freed_memory

EXAMPLES = """\
  python -m training.study --config presets/mini.yaml
  python -m training.study --jobs 4 --config presets/mini.yaml
  python -m training.study pretrain full --seeds 0 --config presets/mini.yaml
  python -m training.study draw pretrained-full --seeds 0 --config presets/mini.yaml
  python -m training.study table --config presets/mini.yaml
  python -m training.study --protocol paper --shards OUT"""

ACTIONS: Final = ("all", "pretrain", "draw", "table")


def main() -> None:
    """Read the command line and run the study or one part of it."""
    options = _parser().parse_args()
    if (options.action in ("pretrain", "draw")) != (options.name is not None):
        needed = "no name" if options.name else "the name of a pre-training or an arm"
        raise UserError(f"{options.action} takes {needed}")
    config, layout, root = command.config_from(options), Layout.at(options.shards), options.output
    keep_freed_memory()

    # Each action imports what it runs; --help need not wait for PyTorch.
    if options.protocol:
        from training.study.paper import run_paper

        run_paper(config, layout, root / options.protocol, options.resume)
    elif options.action == "all":
        from training.study.schedule import run_study

        run_study(config, layout, root, options.jobs, _forwarded(options))
    elif options.action == "pretrain":
        from training.study.draws import run_pretraining

        for seed in options.seeds or range(config.study.pretrain_seeds):
            run_pretraining(config, layout, root, options.name, seed, options.resume)
    elif options.action == "draw":
        from training.study.draws import run_draw
        from training.study.grid import find_arm

        for draw in options.seeds or range(config.study.draws):
            run_draw(config, layout, root, find_arm(config.study, options.name), draw, options.resume)
    else:
        from training.study.output import write_results

        write_results(config, layout, root)


def _parser() -> argparse.ArgumentParser:
    parser = command.parser(
        "The label-efficiency study. What is up to date is skipped, what was stopped is resumed.",
        EXAMPLES,
        "finished shards",
    )
    parser.add_argument("action", nargs="?", choices=ACTIONS, default="all", help="default: all")
    parser.add_argument(
        "name", nargs="?", help="pretrain: which pre-training; draw: which arm, such as pretrained-full"
    )
    parser.add_argument(
        "--protocol",
        choices=("paper",),
        help="instead: the region probe beside the accuracies that the SSPL paper reports for CelebA",
    )
    parser.add_argument(
        "--jobs",
        type=_positive,
        default=os.cpu_count() or 1,
        metavar="N",
        help="all: number of processes at a time (default: one per core)",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[], metavar="N", help="which (default: all)")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/study"), metavar="DIR", help="default: runs/study"
    )
    parser.add_argument(
        "--resume", choices=("auto", "anyway", "never"), default="auto", help="as training.run does"
    )
    return parser


def _forwarded(options: argparse.Namespace) -> list[str]:
    """The arguments that give a process of the study the same configuration, shards and output."""
    files = [argument for file in options.config for argument in ("--config", str(file))]
    settings = [argument for setting in options.settings for argument in ("--set", setting)]
    data = ["--shards", options.shards, "--output", str(options.output)]
    return [*files, *settings, *data, "--resume", options.resume]


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(f"{number} is not positive")
    return number


if __name__ == "__main__":
    command.run(main)
