"""``python -m training.suggest``: the faces to label next, and the page to label them on."""

from pathlib import Path

from common import command
from common.errors import UserError
from common.layout import Layout

EXAMPLES = """\
  python -m training.suggest --shards OUT --count 50
  python -m training.suggest --shards OUT --output next.html"""


def main() -> None:
    """Read the command line, choose the faces, print their paths, and write the page."""
    parser = command.parser(
        "Draw faces to label at random, none of a person twice, and write a page to label them on. The same "
        "shards and labels give the same faces.",
        EXAMPLES,
        "finished shards",
    )
    add = parser.add_argument
    add("--count", type=int, default=50, metavar="N", help="of faces (default: 50)")
    add("--output", type=Path, metavar="FILE", help="the page (default: suggestions.html with the shards)")
    options = parser.parse_args()
    if options.count < 1:
        raise UserError("--count must be 1 or more")
    config, layout = command.config_from(options), Layout.at(options.shards)
    layout.require_samples()

    from training.label.page import write_suggestions  # PyTorch, which --help need not wait for

    file = options.output or Path(options.shards) / "suggestions.html"
    print("\n".join(write_suggestions(config, layout, file, options.count)))
    print(f"suggest: label these on {file}, and fit again with the labels.csv that it downloads")


if __name__ == "__main__":
    command.run(main)
