"""``python -m pipeline.compare --shards A --other B``: agreement per class over the keys of both."""

import json
from pathlib import Path

from common import command
from common.files import write_text
from common.layout import Layout
from pipeline.compare.run import compare


def main() -> None:
    """Read the command line, compare, print the table and write JSON if a file is named."""
    parser = command.parser(
        "Compare the masks of two sets that hold the same faces.",
        "  python -m pipeline.compare --shards OUT --other OUT-parsenet\n"
        "  python -m pipeline.compare --shards OUT --other OUT-256 --patches 3 --output agreement.json",
        "one set",
    )
    parser.add_argument("--other", required=True, metavar="DIR", help="the other set")
    parser.add_argument(
        "--patches",
        type=int,
        default=1,
        metavar="G",
        help="compare dominant classes in G x G patches (default: 1)",
    )
    parser.add_argument(
        "--top", type=int, default=9, metavar="V", help="classes of a patch that are dominant (default: 9)"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the figures as JSON")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="join this Dask cluster, not a local one")
    options = parser.parse_args()
    settings = [f"cluster.scheduler={options.scheduler}"] if options.scheduler else []
    config = command.config_from(options, settings)
    first, second = Layout.at(options.shards), Layout.at(options.other)
    agreement = compare(config.cluster, first, second, options.patches, options.top)
    print(agreement.table())
    if options.output:
        write_text(options.output, json.dumps(agreement.figures(), indent=2) + "\n")


if __name__ == "__main__":
    command.run(main)
