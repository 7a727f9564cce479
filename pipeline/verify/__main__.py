"""``python -m pipeline.verify --shards DIR``: exit status 0 if the set is whole, 1 with a table if not."""

import json
import sys
from pathlib import Path

from common import command
from common.files import write_text
from common.layout import Layout


def main() -> None:
    """Read the command line, verify, print the tables and exit with 1 if anything is wrong."""
    parser = command.parser(
        "Read a set of shards back and check all of it, and compare its masks with those of another set.",
        "  python -m pipeline.verify --shards OUT --scheduler tcp://10.0.0.1:8786\n"
        "  python -m pipeline.verify --shards OUT --other OUT-256 --patches 3 --output agreement.json",
        "the set to check",
    )
    add = parser.add_argument
    add("--other", metavar="DIR", help="compare the masks with this set's of the same faces")
    add("--patches", type=int, default=1, metavar="G", help="do so in G x G patches (1)")
    add("--top", type=int, default=9, metavar="V", help="by the V dominant classes of each (9)")
    add("--output", type=Path, metavar="FILE", help="also write the comparison as JSON")
    add("--scheduler", metavar="ADDRESS", help="join this Dask cluster, not a local one")
    options = parser.parse_args()
    settings = [f"cluster.scheduler={options.scheduler}"] if options.scheduler else []
    config = command.config_from(options, settings)

    from pipeline.verify.agreement import Agreement  # PyTorch, which --help need not wait for
    from pipeline.verify.shard import verify

    other = Layout.at(options.other) if options.other else None
    agreement = Agreement(options.patches, options.top) if other else None
    findings = verify(config.cluster, Layout.at(options.shards), other, agreement)
    print(findings.table())
    if agreement is not None:
        print(f"\n{agreement.table()}")
        if options.output:
            write_text(options.output, json.dumps(agreement.figures(), indent=2) + "\n")
    if findings:
        sys.exit(1)


if __name__ == "__main__":
    command.run(main)
