"""``python -m training.study``: pre-train an initialisation, run cells, make the table."""

import argparse
from pathlib import Path
from typing import Final

from common import command
from common.errors import UserError
from common.layout import DEFAULT_SHARDS, Layout
from common.memory import keep_freed_memory

EXAMPLES = """\
  python -m training.study pretrain full --config presets/mini.yaml
  python -m training.study cell full --labels 0.01 --seeds 0 --config presets/mini.yaml
  python -m training.study cell scratch --config presets/mini.yaml
  python -m training.study table --config presets/mini.yaml"""

ACTIONS: Final = ("pretrain", "cell", "table")


def main() -> None:
    """Read the command line and do one part of the study."""
    parser = command.parser("The label-efficiency study; `make study` runs all of it.", EXAMPLES)
    parser.add_argument("action", choices=ACTIONS, help="what to do; what is done already is skipped")
    parser.add_argument("name", nargs="?", help="pretrain, cell: which initialisation")
    parser.add_argument(
        "--labels", type=float, nargs="+", default=[], metavar="SHARE", help="cell: which (default: all)"
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[], metavar="N", help="cell: which (default: all)"
    )
    parser.add_argument("--shards", default=str(DEFAULT_SHARDS), metavar="DIR", help="the pipeline's output")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/study"), metavar="DIR", help="default: runs/study"
    )
    parser.add_argument(
        "--resume", choices=("auto", "anyway", "never"), default="auto", help="pretrain: as training.run does"
    )
    options = parser.parse_args()
    if (options.name is None) != (options.action == "table"):
        raise UserError(
            f"{options.action} takes {'no name' if options.name else 'the name of an initialisation'}"
        )
    run(options)


def run(options: argparse.Namespace) -> None:
    """Do what the command line says."""
    config, layout, root = command.config_from(options), Layout.at(options.shards), options.output
    keep_freed_memory()

    from training.study.grid import cells
    from training.study.work import pretrain_one, run_cell

    if options.action == "pretrain":
        pretrain_one(config, layout, root, options.name, options.resume)
    elif options.action == "cell":
        for cell in cells(config, options.name, options.labels, options.seeds):
            run_cell(config, layout, root, cell)
    else:
        from training.study.results import write_results

        write_results(config, root)


if __name__ == "__main__":
    command.run(main)
