"""``python -m training.subsets``: nested subsets of the labelled train faces, as list files."""

from pathlib import Path

from common import command
from common.layout import Layout
from training.data.label_subsets import share, write_subsets

EXAMPLES = """\
  python -m training.subsets --labels 1% 5% --output subsets
  python -m training.subsets --shards OUT --labels 1% 2% 5% --seed 3 --output subsets"""


def main() -> None:
    """Read the command line and write the lists."""
    parser = command.parser(
        "Draw nested subsets of the labelled train faces and list their keys.",
        EXAMPLES,
        "finished shards",
    )
    parser.add_argument("--labels", type=share, nargs="+", required=True, metavar="SHARE", help="such as 5%%")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="which draw (default: 0)")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the lists")
    options = parser.parse_args()
    for path in write_subsets(Layout.at(options.shards), options.labels, options.seed, options.output):
        print(f"subsets: {path}")


if __name__ == "__main__":
    command.run(main)
