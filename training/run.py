"""``python -m training.run``: both training stages, evaluation and report, over finished shards."""

from pathlib import Path

from common import command
from common.layout import DEFAULT_SHARDS, Layout
from common.memory import keep_freed_memory

RESUME = ("auto", "anyway", "never")
STAGES = ("pretrain", "finetune", "evaluate", "report")

EXAMPLES = """\
  python -m training.run
  python -m training.run --stage pretrain --config presets/mini.yaml
  torchrun --nproc-per-node 8 -m training.run --stage pretrain --config presets/paper.yaml
  python -m training.run --stage finetune --labels 1% 5%
  python -m training.run --stage finetune --labels subsets/seed0-5%.txt
  python -m training.run --shards OUT --output OUT/runs --set pretrain.steps=1000"""


def main() -> None:
    """Read the command line and run the stages."""
    parser = command.parser("Train on shards: SSPL pre-training, fine-tuning, evaluation, report.", EXAMPLES)
    parser.add_argument("--stage", choices=(*STAGES, "all"), default="all", help="which stage (default: all)")
    parser.add_argument(
        "--shards",
        default=str(DEFAULT_SHARDS),
        metavar="DIR",
        help="the pipeline's output, a folder or an fsspec address (default: shards/)",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("runs"), metavar="DIR", help="where results go (default: runs/)"
    )
    parser.add_argument(
        "--resume",
        choices=RESUME,
        default="auto",
        help="what pre-training does about a checkpoint: go on if it is of the same run (auto), "
        "in any case (anyway), or delete it and start anew (never)",
    )
    parser.add_argument(
        "--labels",
        nargs="+",
        metavar="SHARE|FILE",
        help="what to fine-tune on instead of finetune.runs: shares such as 1%% 5%%, or lists that "
        "training.subsets wrote",
    )
    options = parser.parse_args()
    config = command.config_from(options)
    keep_freed_memory()
    layout, output = Layout.at(options.shards), options.output

    from training.engine.distributed import rank_of_environment
    from training.evaluate.evaluate import evaluate
    from training.finetune.runs import finetune, with_labels
    from training.models.pretrained import FILE
    from training.pretrain.train import pretrain
    from training.report import report

    if options.labels:
        config = with_labels(config, layout, options.labels)
    stages = {
        "pretrain": lambda: pretrain(config, layout, output / "pretrain", options.resume),
        "finetune": lambda: finetune(config, layout, output / "pretrain" / FILE, output / "finetune"),
        "evaluate": lambda: evaluate(config, layout, output / "finetune", output / "evaluate"),
        "report": lambda: report(config, layout, output, output / "report.html"),
    }
    for name in STAGES if options.stage == "all" else (options.stage,):
        if name != "pretrain" and rank_of_environment() > 0:
            return  # only pre-training shares its work
        stages[name]()


if __name__ == "__main__":
    command.run(main)
