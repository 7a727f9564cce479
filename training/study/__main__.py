"""``python -m training.study``: all draws of the study that are missing or stale, then its tables."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Event
from types import FrameType
from typing import Any

from common import command
from common.errors import UserError
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


def run_all(commands: Mapping[str, Sequence[str]], logs: Path, at_once: int) -> None:
    """Run all commands, `at_once` of them at a time; Ctrl-C and SIGTERM interrupt those that run.

    Args:
        commands: program and arguments by name; each gets its share of the cores as threads unless
            OMP_NUM_THREADS says otherwise.
        logs: folder that their output goes to.
        at_once: at least 1.

    Raises:
        UserError: commands failed; the others have run.
        KeyboardInterrupt: a signal stopped the commands; those that had not begun are left out.
    """
    running: set[subprocess.Popen[bytes]] = set()
    stopping, at_once = Event(), min(at_once, len(commands))
    environment = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // at_once)), **os.environ}
    files = {name: logs / f"{name.replace(' ', '')}.log" for name in commands}
    logs.mkdir(parents=True, exist_ok=True)

    def run(name: str) -> int:
        if stopping.is_set():
            return 1
        # In a process group of its own, a command gets a terminal's Ctrl-C once, from `stop`.
        how: dict[str, Any] = {"stderr": subprocess.STDOUT, "env": environment, "process_group": 0}
        with files[name].open("wb") as log, subprocess.Popen(commands[name], stdout=log, **how) as process:
            running.add(process)
            if stopping.is_set():
                process.send_signal(signal.SIGINT)
            status = process.wait()
            running.discard(process)
        return status

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()
        for process in list(running):
            process.send_signal(signal.SIGINT)
        raise KeyboardInterrupt

    failed, before = [], {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with ThreadPoolExecutor(at_once) as pool:
            futures = {pool.submit(run, name): name for name in commands}
            for number, future in enumerate(as_completed(futures), start=1):
                name = futures[future]
                if status := future.result():
                    failed.append(name)
                outcome = f"failed with status {status}, see {files[name]}" if status else "done"
                print(f"study: {number} of {len(commands)}: {name}: {outcome}", flush=True)
    finally:
        for signalled, handler in before.items():
            signal.signal(signalled, handler)
    if failed:
        last = files[failed[0]].read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
        raise UserError(
            f"{len(failed)} of {len(commands)} failed, among them {failed[0]} ({last}); the logs are in "
            f"{logs}, and the same command runs them again"
        )


if __name__ == "__main__":
    command.run(main)
