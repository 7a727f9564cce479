"""``python -m pipeline.ingest``: list and plan an input folder."""

from common.command import run
from pipeline.command import parse_arguments
from pipeline.ingest.plan import ingest


def main() -> None:
    """Read the command line and run the stage."""
    config, layout, _ = parse_arguments(
        "List the images of a folder, refuse what cannot be used, and plan the shards.", "pipeline.ingest"
    )
    ingest(config, layout)


if __name__ == "__main__":
    run(main)
