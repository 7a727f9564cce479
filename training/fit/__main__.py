"""``python -m training.fit``: photos and a table of labels to a classifier with scores."""

from pathlib import Path

from common import command

EXAMPLES = """\
  python -m training.fit photos/ --output OUT
  python -m training.fit photos/ labels.csv --output OUT
  python -m training.fit OUT labels.csv --output OUT"""


def main() -> None:
    """Read the command line and do all steps that are not done."""
    parser = command.parser(
        "Parse photos, fit the best classifier to their labels, and write its scores and a page to label "
        "more faces on. Run it again with more labels or photos: only what changed is done.",
        EXAMPLES,
    )
    parser.add_argument(
        "photos", metavar="PHOTOS", help="a folder, a table, an address, or finished shards (their --output)"
    )
    parser.add_argument(
        "labels",
        nargs="?",
        type=Path,
        metavar="LABELS",
        help="a table with a column path, such as the labels.csv that the page downloads",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("fit"),
        metavar="DIR",
        help="folder of all results (default: fit/)",
    )
    options = parser.parse_args()

    from training.fit.fit import fit_photos  # PyTorch, which --help need not wait for

    fit_photos(options.photos, options.labels, options.output, options.config, options.settings)


if __name__ == "__main__":
    command.run(main)
