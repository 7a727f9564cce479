"""``python -m pipeline.parse``: finished shards; with --input, from a folder of images all the way."""

from functools import partial

from common.command import run
from common.errors import UserError
from common.fork_server import start_fork_server
from common.layout import Layout
from pipeline.command import arguments, read_options


def main() -> None:
    """Read the command line and run the stage, after ingest and align if an input is given."""
    parser = arguments(
        "Parse aligned faces and write shards; with --input, do everything from a folder of images; "
        "with --from, parse the faces of another set again.",
        "pipeline.parse",
    )
    example = "  python -m pipeline.parse --from OUT --output OUT-parsenet --set parse.parser=parsenet"
    parser.epilog = f"{parser.epilog}\n{example}"
    text = "the --output of an earlier run: its aligned faces are parsed again, into --output"
    parser.add_argument("--from", dest="origin", metavar="DIR", help=text)
    flags = parser.parse_args()
    config, layout = read_options(flags)
    if flags.origin is not None and flags.input is not None:
        raise UserError("--input and --from exclude each other: --from takes faces that are aligned already")
    if config.cluster.scheduler is None:
        also = [] if flags.input is None else ["pipeline.align.shard"]
        start_fork_server("distributed", *also, "pipeline.parse.shard")

    # Imported while the workers' server imports the same.
    from common.retry import retried
    from pipeline.align.run import align
    from pipeline.ingest.run import ingest
    from pipeline.lock import locked
    from pipeline.parse.run import make_sibling, parse
    from pipeline.runner.cluster import shared_workers

    with locked(layout, config.stream.retry_minutes), shared_workers():
        if flags.origin is not None:
            make = partial(make_sibling, Layout.at(flags.origin), layout)
            layout = retried(make, config.stream.retry_minutes, "parse")
        if flags.input is not None:
            ingest(config, layout, flags.prune)
            align(config, layout, flags.any_code, flags.prune)
        parse(config, layout, flags.any_code, flags.prune)


if __name__ == "__main__":
    run(main)
