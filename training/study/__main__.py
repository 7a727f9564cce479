"""``python -m training.study``: all draws of the study that are missing or stale, then its tables."""

import os
import sys
from pathlib import Path

from common import command
from common.layout import Layout

EXAMPLES = """\
  python -m training.study --config presets/mini.yaml
  python -m training.study --jobs 4 --config presets/mini.yaml
  python -m training.study --table --config presets/mini.yaml
  python -m training.study --protocol paper --shards OUT"""


def main() -> None:
    """Read the command line, run the draws and write the tables."""
    what = (
        "The label-efficiency study: a training.run with each of study.draws seeds, then tables and a plot. "
        "What is up to date is skipped, what was stopped is resumed."
    )
    parser = command.parser(what, EXAMPLES, "finished shards")
    add, jobs = parser.add_argument, "draws at a time, which share the cores (default: as many as cores)"
    add("--table", action="store_true", help="only the tables of the draws that are done")
    paper = "instead: the region probe beside the accuracies that the SSPL paper reports for CelebA"
    add("--protocol", choices=("paper",), help=paper)
    cores = os.cpu_count() or 1
    add("--jobs", type=int, choices=range(1, 1025), default=cores, metavar="N", help=jobs)
    add("--output", type=Path, default=Path("runs/study"), metavar="DIR", help="default: runs/study")
    add("--resume", choices=("auto", "anyway", "never"), default="auto", help="as training.run does")
    options = parser.parse_args()
    config, root = command.config_from(options), options.output

    # Imported here, because --help need not wait for them.
    if options.protocol:
        from training.study.paper import run_paper

        run_paper(config, Layout.at(options.shards), root / options.protocol, options.resume)
        return
    from training.study.draws import run_all
    from training.study.results import draw_folder, write_results

    if not options.table:
        files = [argument for file in options.config for argument in ("--config", str(file))]
        settings = [argument for setting in options.settings for argument in ("--set", setting)]
        program = [sys.executable, "-m", "training.run", *files, *settings, "--resume", options.resume]
        program += ["--shards", options.shards, "--methods", *config.study.methods]
        commands = {}
        for draw in range(config.study.draws):
            draws = []
            for stage in ("pretrain", "finetune"):
                draws += ["--set", f"{stage}.seed={getattr(config, stage).seed + draw}"]
            commands[f"draw {draw}"] = [*program, *draws, "--output", str(draw_folder(root, draw))]
        run_all(commands, root / "logs", options.jobs)
    write_results(config.study.draws, root)


if __name__ == "__main__":
    command.run(main)
