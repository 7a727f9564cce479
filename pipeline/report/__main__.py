"""``python -m pipeline.report --shards DIR``: one self-contained page about a set of shards."""

from pathlib import Path

from contract import command
from contract.layout import DEFAULT_SHARDS, Layout
from pipeline.report.page import report


def main() -> None:
    """Read the command line and write the card."""
    parser = command.parser(
        "Write the data card of finished shards: counts, checks, faces, masks, attributes on one page.",
        "  python -m pipeline.report --shards OUT\n"
        "  python -m pipeline.report --shards s3://bucket/celeba --output celeba.html",
    )
    parser.add_argument(
        "--shards", default=str(DEFAULT_SHARDS), metavar="DIR", help="the set (default: shards/)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs", "data.html"),
        metavar="FILE",
        help="where the page goes (default: runs/data.html)",
    )
    options = parser.parse_args()
    report(Layout.at(options.shards), options.output)


if __name__ == "__main__":
    command.run(main)
