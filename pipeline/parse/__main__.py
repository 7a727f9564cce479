"""``python -m pipeline.parse``: finished shards; with --input, from a folder of images all the way."""

from contract.command import run
from pipeline.align.stage import align
from pipeline.command import parse_arguments
from pipeline.ingest.plan import ingest
from pipeline.parse.stage import parse


def main() -> None:
    """Read the command line and run the stage, after ingest and align if an input is given."""
    config, layout, from_input = parse_arguments(
        "Parse aligned faces and write shards; with --input, do everything from a folder of images.",
        "pipeline.parse",
    )
    if from_input:
        ingest(config, layout)
        align(config, layout)
    parse(config, layout)


if __name__ == "__main__":
    run(main)
