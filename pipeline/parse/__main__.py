"""``python -m pipeline.parse``: finished shards; with --input, from a folder of images all the way."""

from functools import partial

from common.command import run
from common.errors import UserError
from common.layout import Layout
from pipeline.command import arguments, read_options
from pipeline.runner.fork_server import start_fork_server


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
    parser.add_argument(
        "--drop-aligned",
        action="store_true",
        help="afterwards empty the tars of aligned faces, which finished shards hold, too",
    )
    flags = parser.parse_args()
    config, layout = read_options(flags)
    if flags.origin is not None and flags.input is not None:
        raise UserError("--input and --from exclude each other: --from takes faces that are aligned already")
    if flags.origin is not None and flags.drop_aligned:
        raise UserError(
            "--drop-aligned would empty the tars of the set that --from names; run it on that set"
        )
    if config.cluster.scheduler is None:
        start_fork_server(*([] if flags.input is None else ["pipeline.align.shard"]), "pipeline.parse.shard")

    # Imported while the workers' server imports the same.
    from common.retry import retried
    from pipeline.align.run import align
    from pipeline.ingest.run import ingest
    from pipeline.lock import locked
    from pipeline.parse.run import make_sibling, parse
    from pipeline.runner.cluster import shared_workers

    with locked(layout, config.stream.retry_minutes), shared_workers():
        stored = None
        if flags.origin is not None:
            origin = Layout.at(flags.origin)
            make = partial(make_sibling, origin, layout)
            layout, stored = retried(make, config.stream.retry_minutes, "parse"), origin.shards
        if flags.input is not None:
            ingest(config, layout, flags.prune)
            align(config, layout, flags.any_code, flags.prune)
        parse(config, layout, flags.any_code, flags.prune, flags.drop_aligned, stored)


if __name__ == "__main__":
    run(main)
