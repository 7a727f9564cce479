"""``python -m training.audit``: labels that are probably wrong, and the page to check them on."""

from pathlib import Path

from common import command
from common.errors import UserError
from common.layout import Layout

EXAMPLES = """\
  python -m training.audit --shards OUT
  python -m training.audit --shards OUT --count 500 --output audit"""


def main() -> None:
    """Read the command line and write the table and the page."""
    parser = command.parser(
        "Find labels that contradict predictions made without them or other photos of the same person, and "
        "near-duplicates across splits.",
        EXAMPLES,
        "finished shards",
    )
    add = parser.add_argument
    add("--count", type=int, default=200, metavar="N", help="of labels on the page (default: 200)")
    add("--output", type=Path, metavar="DIR", help="local folder (default: that of the shards)")
    options = parser.parse_args()
    if options.count < 1:
        raise UserError("--count must be 1 or more")
    config, layout = command.config_from(options), Layout.at(options.shards)
    layout.require_samples()

    from training.label.audit import audit  # PyTorch, which --help need not wait for

    audit(config, layout, options.output or Path(options.shards), options.count)


if __name__ == "__main__":
    command.run(main)
