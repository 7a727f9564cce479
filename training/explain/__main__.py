"""``python -m training.explain``: where a classifier looks, per attribute, on the average test face."""

from pathlib import Path

from common import command
from common.errors import UserError
from common.layout import Layout

EXAMPLES = """\
  python -m training.explain --checkpoint runs/finetune/pretrained-5%/classifier.pt
  python -m training.explain --checkpoint classifier.pt --shards OUT --output OUT/runs/explain --faces 500"""


def main() -> None:
    """Read the command line and explain one classifier."""
    parser = command.parser(
        "Show where a classifier looks, averaged over the test faces.", EXAMPLES, "finished shards"
    )
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="classifier.pt")
    parser.add_argument("--output", type=Path, default=Path("runs/explain"), metavar="DIR")
    parser.add_argument("--faces", type=int, default=500, metavar="N", help="at most N (default: 500)")
    options = parser.parse_args()
    if options.faces < 1:
        raise UserError(f"--faces {options.faces}: must be at least 1")
    config = command.config_from(options)

    from training.explain.explain import explain  # PyTorch and more, which --help need not wait for

    batch_size, layout = config.evaluate.batch_size, Layout.at(options.shards)
    explain(options.checkpoint, layout, options.output, options.faces, batch_size, config.stream)


if __name__ == "__main__":
    command.run(main)
