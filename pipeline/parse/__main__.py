"""``python -m pipeline.parse``: finished shards; with --input, from a folder of images all the way."""

from common.command import run
from common.errors import UserError
from common.layout import Layout
from pipeline.align.run import align
from pipeline.command import arguments, read_options
from pipeline.ingest.run import ingest
from pipeline.lock import locked
from pipeline.parse.run import parse
from pipeline.parse.sibling import make_sibling
from pipeline.runner.cluster import shared_workers


def main() -> None:
    """Read the command line and run the stage, after ingest and align if an input is given."""
    parser = arguments(
        "Parse aligned faces and write shards; with --input, do everything from a folder of images; "
        "with --from, parse the faces of another set again.",
        "pipeline.parse",
    )
    parser.epilog = (
        f"{parser.epilog}\n"
        "  python -m pipeline.parse --from OUT --output OUT-parsenet --set parse.parser=parsenet"
    )
    parser.add_argument(
        "--from",
        dest="origin",
        metavar="DIR",
        help="the --output of an earlier run: its aligned faces are parsed again, into --output",
    )
    flags = parser.parse_args()
    options = read_options(flags)
    if flags.origin is not None and options.from_input:
        raise UserError("--input and --from exclude each other: --from takes faces that are aligned already")
    config, layout = options.config, options.layout
    with locked(layout), shared_workers():
        if flags.origin is not None:
            layout = make_sibling(Layout.at(flags.origin), layout)
        if options.from_input:
            ingest(config, layout, options.prune)
            align(config, layout, options.any_code, options.prune)
        parse(config, layout, options.any_code, options.prune)


if __name__ == "__main__":
    run(main)
