"""``python -m training.probe``: fit probes and evaluate them like fine-tuned classifiers, in seconds."""

from pathlib import Path

from common import command
from common.layout import DEFAULT_SHARDS, Layout
from training.data.samples import read_samples
from training.evaluate.evaluate import evaluate
from training.finetune.labels import runs_for
from training.finetune.runs import finetune
from training.models.pretrained import FILE
from training.models.probe import EMBEDDING, EMBEDDING_PROBE, PROBES

EXAMPLES = """\
  python -m training.probe --shards OUT --labels 1%
  python -m training.probe --labels 1% 5% lists/seed0-5%.txt --output runs/probe"""


def main() -> None:
    """Read the command line, fit, evaluate and print the table."""
    parser = command.parser(
        "Linear classifiers of the features that the shards hold, evaluated on test.", EXAMPLES
    )
    parser.add_argument("--shards", default=str(DEFAULT_SHARDS), metavar="DIR", help="the pipeline's output")
    parser.add_argument(
        "--labels", nargs="+", required=True, metavar="SHARE|FILE", help="such as 1%% or a list of keys"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("runs/probe"), metavar="DIR", help="default: runs/probe"
    )
    options = parser.parse_args()
    config, layout = command.config_from(options), Layout.at(options.shards)
    stored = read_samples(layout, ("train",), config.stream.folder).extents
    probes = [probe for probe in PROBES if probe != EMBEDDING_PROBE or EMBEDDING in stored]
    changes = {"initial": probes, "runs": runs_for(options.labels, config.finetune, layout)}
    config = config.model_copy(update={"finetune": config.finetune.model_copy(update=changes)})
    finetune(config, layout, options.output / FILE, options.output / "finetune")
    evaluate(config.evaluate, config.stream, layout, options.output / "finetune", options.output / "evaluate")


if __name__ == "__main__":
    command.run(main)
