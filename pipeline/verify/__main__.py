"""``python -m pipeline.verify --shards DIR``: exit status 0 if the set is whole, 1 with a table if not."""

import sys

from common import command
from common.layout import Layout
from pipeline.verify.run import verify


def main() -> None:
    """Read the command line, verify, print the table and exit with 1 if anything is wrong."""
    parser = command.parser(
        "Read finished shards and their manifests back and check all of it.",
        "  python -m pipeline.verify --shards OUT\n"
        "  python -m pipeline.verify --shards OUT --scheduler tcp://10.0.0.1:8786",
        "the set to check",
    )
    parser.add_argument("--scheduler", metavar="ADDRESS", help="join this Dask cluster, not a local one")
    options = parser.parse_args()
    settings = [f"cluster.scheduler={options.scheduler}"] if options.scheduler else []
    config = command.config_from(options, settings)
    findings = verify(config.cluster, Layout.at(options.shards))
    print(findings.table())
    if findings:
        sys.exit(1)


if __name__ == "__main__":
    command.run(main)
