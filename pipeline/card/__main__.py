"""``python -m pipeline.card --shards DIR``: write the data card of a set."""

from pathlib import Path

from common import command
from common.layout import Layout


def main() -> None:
    """Read the command line and write the page."""
    parser = command.parser(
        "One page about a set of shards: what came in, what was refused, faces, masks, labels.",
        "  python -m pipeline.card --shards OUT\n  python -m pipeline.card --output runs/data.html",
        "the set",
    )
    text = "the page (default: data.html beside the manifests)"
    parser.add_argument("--output", type=Path, metavar="FILE", help=text)
    options = parser.parse_args()
    command.config_from(options)

    from pipeline.card.page import write_card  # Arrow and more, which --help need not wait for

    layout = Layout.at(options.shards)
    output = options.output or layout.manifests / "data.html"
    write_card(layout, output)
    print(f"card: {output}")


if __name__ == "__main__":
    command.run(main)
