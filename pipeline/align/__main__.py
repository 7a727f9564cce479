"""``python -m pipeline.align``: aligned faces for every planned source."""

from common.command import run
from pipeline.align.stage import align
from pipeline.command import parse_arguments
from pipeline.ingest.plan import ingest


def main() -> None:
    """Read the command line and run the stage, after ingest if an input is given."""
    config, layout, from_input = parse_arguments(
        "Find, warp and store one aligned face per image.", "pipeline.align"
    )
    if from_input:
        ingest(config, layout)
    align(config, layout)


if __name__ == "__main__":
    run(main)
