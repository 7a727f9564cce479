"""``python -m training.run``: both training stages, evaluation and report, over finished shards."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Final

from common import command
from common.config import Config
from common.layout import Layout, mark_output
from common.memory import keep_freed_memory
from common.storage import address

RESUME: Final = ("auto", "anyway", "never")

EXAMPLES = """\
  python -m training.run
  python -m training.run --stage pretrain --config presets/mini.yaml
  torchrun --nproc-per-node 8 -m training.run --stage pretrain --config presets/paper.yaml
  python -m training.run --stage finetune --labels 1% 5%
  python -m training.run --stage finetune --labels subsets/seed0-5%.txt
  python -m training.run --shards OUT --output OUT/runs --set pretrain.steps=1000"""


def pretrain_stage(config: Config, layout: Layout, output: Path, resume: str) -> None:
    """Stage 1, to ``pretrain/``."""
    from training.pretrain.train import pretrain

    pretrain(config, layout, output / "pretrain", resume)


def finetune_stage(config: Config, layout: Layout, output: Path, resume: str) -> None:
    """Stage 2, from the weights of stage 1 to ``finetune/``."""
    from training.finetune.runs import finetune
    from training.models.pretrained import FILE

    finetune(config, layout, output / "pretrain" / FILE, output / "finetune", resume)


def evaluate_stage(config: Config, layout: Layout, output: Path, resume: str) -> None:
    """Scores of the fine-tuned classifiers, to ``evaluate/``."""
    from training.evaluate.evaluate import evaluate

    evaluate(config.evaluate, config.stream, layout, output / "finetune", output / "evaluate")


def report_stage(config: Config, layout: Layout, output: Path, resume: str) -> None:
    """The page about everything in `output`, ``report.html``."""
    from training.report import report

    report(config, layout, output, output / "report.html")


STAGES: Final = {
    "pretrain": pretrain_stage,
    "finetune": finetune_stage,
    "evaluate": evaluate_stage,
    "report": report_stage,
}
"""By name, in their order. Each imports its own code, so DVC need not run it after edits of another's."""

DISTRIBUTED: Final = ("pretrain", "finetune")
"""Stages whose work the processes under ``torchrun`` share; the first one does the others."""


def main() -> None:
    """Read the command line and run the stages."""
    options = _parser().parse_args()
    config = command.config_from(options)
    keep_freed_memory()
    layout = Layout.at(options.shards)

    from training.engine.distributed import joined  # PyTorch, which --help need not wait for
    from training.engine.output import local_output

    if options.labels:
        config = _with_labels(config, layout, options.labels)
    with (
        joined() as ranks,
        local_output(address(options.output), tuple(STAGES), config.stream, ranks) as output,
    ):
        for name in STAGES if options.stage == "all" else (options.stage,):
            if ranks.first and name != "report":
                mark_output(output / name)
            if ranks.first or name in DISTRIBUTED:
                STAGES[name](config, layout, output, options.resume)


def _parser() -> ArgumentParser:
    parser = command.parser(
        "Train on shards: SSPL pre-training, fine-tuning, evaluation, report.",
        EXAMPLES,
        "finished shards",
    )
    parser.add_argument("--stage", choices=(*STAGES, "all"), default="all", help="which stage (default: all)")
    parser.add_argument(
        "--output", default="runs", metavar="DIR", help="folder or address of the results (default: runs/)"
    )
    parser.add_argument(
        "--resume",
        choices=RESUME,
        default="auto",
        help="what training does with a checkpoint: resume if it is of the same run, else keep it beside and "
        "start over (auto); resume in any case (anyway); or delete it and start over (never)",
    )
    parser.add_argument(
        "--labels",
        nargs="+",
        metavar="SHARE|FILE",
        help="what to fine-tune on instead of finetune.runs: shares such as 1%% 5%%, or lists that "
        "training.subsets wrote",
    )
    return parser


def _with_labels(config: Config, layout: Layout, labels: list[str]) -> Config:
    from training.finetune.labels import runs_for

    settings = config.finetune.model_copy(update={"runs": runs_for(labels, config.finetune, layout)})
    return config.model_copy(update={"finetune": settings})


if __name__ == "__main__":
    command.run(main)
