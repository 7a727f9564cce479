"""``python -m pipeline.ingest``: list and plan an input folder."""

from common.command import run
from pipeline.command import arguments, read_options


def main() -> None:
    """Read the command line and run the stage."""
    parser = arguments(
        "List the images of a folder, refuse those that cannot be used, and plan the shards.",
        "pipeline.ingest",
    )
    flags = parser.parse_args()
    config, layout = read_options(flags)

    from pipeline.ingest.run import ingest  # Arrow, which --help need not wait for
    from pipeline.lock import locked

    with locked(layout, config.stream.retry_minutes):
        ingest(config, layout, flags.prune)


if __name__ == "__main__":
    run(main)
