"""``python -m pipeline.ingest``: list and plan an input folder."""

from common.command import run
from pipeline.command import arguments, read_options
from pipeline.ingest.run import ingest
from pipeline.lock import locked


def main() -> None:
    """Read the command line and run the stage."""
    parser = arguments(
        "List the images of a folder, refuse those that cannot be used, and plan the shards.",
        "pipeline.ingest",
    )
    options = read_options(parser.parse_args())
    with locked(options.layout):
        ingest(options.config, options.layout, options.prune)


if __name__ == "__main__":
    run(main)
