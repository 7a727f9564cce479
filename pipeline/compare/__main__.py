"""``python -m pipeline.compare --shards A --other B``: agreement per class over the keys of both."""

import json
from pathlib import Path

from common import command
from common.files import write_text
from common.layout import DEFAULT_SHARDS, Layout
from pipeline.compare.stage import compare


def main() -> None:
    """Read the command line, compare, print the table and write JSON if asked to."""
    parser = command.parser(
        "Compare the masks of two sets that hold the same faces.",
        "  python -m pipeline.compare --shards OUT --other OUT-parsenet\n"
        "  python -m pipeline.compare --shards OUT --other OUT-256 --patches 3 --output agreement.json",
    )
    parser.add_argument(
        "--shards", default=str(DEFAULT_SHARDS), metavar="DIR", help="one set (default: shards/)"
    )
    parser.add_argument("--other", required=True, metavar="DIR", help="the other set")
    parser.add_argument(
        "--patches",
        type=int,
        default=1,
        metavar="G",
        help="compare dominant parts in G x G patches (default: 1)",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the figures as JSON, too")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="join this Dask cluster, not a local one")
    options = parser.parse_args()
    settings = [f"cluster.scheduler={options.scheduler}"] if options.scheduler else []
    config = command.config_from(options, settings)
    agreement = compare(config, Layout.at(options.shards), Layout.at(options.other), options.patches)
    print(agreement.table())
    if options.output:
        write_text(options.output, json.dumps(agreement.figures(), indent=2) + "\n")


if __name__ == "__main__":
    command.run(main)
