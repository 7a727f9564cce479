"""``python -m training.run``: both training stages, evaluation and report, over finished shards."""

import fcntl
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from common import command
from common.config import Config
from common.errors import UserError
from common.layout import Layout, mark_output
from common.memory import keep_freed_memory
from common.storage import address

EXAMPLES = """\
  python -m training.run
  python -m training.run --stage pretrain --config presets/mini.yaml
  torchrun --nproc-per-node 8 -m training.run --stage pretrain --config presets/paper.yaml
  python -m training.run --stage finetune --labels 1% 5%
  python -m training.run --methods probe region_probe --labels 1%
  python -m training.run --write-subsets subsets --labels 1% 5% --set finetune.seed=3
  python -m training.run --stage finetune --labels subsets/seed3-5%.txt
  python -m training.run --shards OUT --output OUT/runs --set pretrain.steps=1000"""


def pretrain_stage(config: Config, layout: Layout, output: Path, resume: str) -> None:
    """Stage 1, to ``pretrain/``."""
    from training.pretrain.train import pretrain

    pretrain(config, layout, output / "pretrain", resume)


def finetune_stage(config: Config, layout: Layout, output: Path, resume: str) -> None:
    """Stage 2, from the weights of stage 1 to ``finetune/``."""
    from training.methods.runs import finetune
    from training.models.pretrained import FILE

    finetune(config, layout, output / "pretrain" / FILE, output / "finetune", resume)


def evaluate_stage(config: Config, layout: Layout, output: Path, resume: str) -> None:
    """Scores of the fine-tuned classifiers, to ``evaluate/``."""
    from training.evaluate.evaluate import evaluate

    evaluate(config, layout, output / "finetune", output / "evaluate")


def report_stage(config: Config, layout: Layout, output: Path, resume: str) -> None:
    """The page about everything in `output`, ``report.html``."""
    from training.report.page import report

    report(config, layout, output, output / "report.html")


# By name, in their order. Each imports its own code, so DVC need not run it after edits of another's.
STAGES: Final = {
    "pretrain": pretrain_stage,
    "finetune": finetune_stage,
    "evaluate": evaluate_stage,
    "report": report_stage,
}


def main() -> None:
    """Read the command line and run the stages."""
    options = _parser().parse_args()
    config = command.config_from(options)
    keep_freed_memory()
    layout = Layout.at(options.shards)

    from training.engine.distributed import joined  # PyTorch, which --help need not wait for

    if options.write_subsets:
        from training.data.label_subsets import share, write_subsets

        shares = [share(text) for text in options.labels or ()]
        for path in write_subsets(layout, shares, config.finetune.seed, options.write_subsets):
            print(f"subsets: {path}")
        return
    config = _with_runs(config, layout, options.labels, options.methods)
    output = options.output
    with joined() as ranks, ExitStack() as stack:
        with ranks.failing_together():
            if ranks.first:
                stack.enter_context(_locked(output))
        for name in _stages(config) if options.stage == "all" else (options.stage,):
            if ranks.first and name != "report":
                mark_output(output / name)
            # The processes under ``torchrun`` share the work of two stages; the first one does the others.
            if ranks.first or name in ("pretrain", "finetune"):
                STAGES[name](config, layout, output, options.resume)


@contextmanager
def _locked(output: Path) -> Iterator[None]:
    """Keep other trainings out of a folder; the lock ends with the process at the latest."""
    output.mkdir(parents=True, exist_ok=True)
    with (output / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another training writes to {output}; wait until it ends, or name another folder with "
                "--output"
            ) from error
        except OSError as error:
            print(f"{lock.name}: this disk has no locks ({error}); start no second training here")
        yield


def _local_folder(text: str) -> Path:
    path = address(text)
    if isinstance(path, Path):
        return path
    raise UserError(
        f"--output {text}: training writes to a local folder; name one, and copy the results when it ends"
    )


def _parser() -> ArgumentParser:
    parser = command.parser(
        "Train on shards: SSPL pre-training, fine-tuning, evaluation, report.", EXAMPLES, "finished shards"
    )
    parser.add_argument("--stage", choices=(*STAGES, "all"), default="all", help="which stage (default: all)")
    parser.add_argument(
        "--output",
        type=_local_folder,
        default=Path("runs"),
        metavar="DIR",
        help="local folder of results (default: runs/)",
    )
    parser.add_argument(
        "--resume",
        choices=("auto", "anyway", "never"),
        default="auto",
        help="what training does with a checkpoint: resume if it is of the same run, else keep it beside and "
        "start over (auto); resume in any case (anyway); or delete it and start over (never)",
    )
    parser.add_argument(
        "--labels",
        nargs="+",
        metavar="SHARE|FILE",
        help="what to fine-tune on instead of finetune.runs: shares such as 1%% 5%%, or lists of keys",
    )
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="instead of finetune.methods")
    parser.add_argument(
        "--write-subsets",
        type=Path,
        metavar="DIR",
        help="do nothing but write the lists of the faces that --labels draws with finetune.seed",
    )
    return parser


def _stages(config: Config) -> list[str]:
    """All stages, without stage 1 if no method starts from its weights."""
    from training.methods.runs import find_method

    reads_weights = any(find_method(name).pretrained for name in config.finetune.methods)
    return [name for name in STAGES if name != "pretrain" or reads_weights]


def _with_runs(config: Config, layout: Layout, labels: list[str] | None, methods: list[str] | None) -> Config:
    """The configuration with the runs that the command line names."""
    changes: dict[str, Any] = {"methods": methods} if methods else {}
    if labels:
        from training.methods.runs import runs_for

        changes["runs"] = runs_for(labels, config.finetune, layout)
    return config.model_copy(update={"finetune": config.finetune.model_copy(update=changes)})


if __name__ == "__main__":
    command.run(main)
