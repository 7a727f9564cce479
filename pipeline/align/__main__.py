"""``python -m pipeline.align``: aligned faces for every planned source."""

from common.command import run
from common.fork_server import start_fork_server
from pipeline.command import arguments, read_options


def main() -> None:
    """Read the command line and run the stage, after ingest if an input is given."""
    parser = arguments("Find, warp and store one aligned face per image.", "pipeline.align")
    flags = parser.parse_args()
    config, layout = read_options(flags)
    if config.cluster.scheduler is None:
        start_fork_server("distributed", "pipeline.align.shard")

    # Imported while the workers' server imports the same.
    from pipeline.align.run import align
    from pipeline.ingest.run import ingest
    from pipeline.lock import locked

    with locked(layout, config.stream.retry_minutes):
        if flags.input is not None:
            ingest(config, layout, flags.prune)
        align(config, layout, flags.any_code, flags.prune)


if __name__ == "__main__":
    run(main)
