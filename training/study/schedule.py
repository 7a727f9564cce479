"""The whole study: every pre-training and draw that is missing or stale, several processes at a time."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from threading import Event
from types import FrameType

from common.config import Config
from common.errors import UserError
from common.layout import Layout
from training.study.draws import draw_is_done, pretraining_is_done
from training.study.grid import arms
from training.study.output import write_results


@dataclass(frozen=True)
class Job:
    """A command that runs in a process of its own.

    Attributes:
        title: for messages.
        command: the program and its arguments.
        log: file that its output goes to.
    """

    title: str
    command: Sequence[str]
    log: Path


def run_study(config: Config, layout: Layout, root: Path, jobs: int, options: Sequence[str]) -> None:
    """Run what is missing of the study, first pre-trainings, then draws, then the tables and the plot.

    Args:
        config, layout: the settings and the shards.
        root: the study's folder; the output of the processes goes to ``logs/`` in it.
        jobs: number of processes at a time, one thread each unless OMP_NUM_THREADS says otherwise.
        options: arguments that lead a process to the same `config`, `layout` and `root`.

    Raises:
        UserError: a process failed; those that do not depend on it have run.
    """
    study, program = config.study, (sys.executable, "-m", "training.study")

    def job(action: str, name: str, seed: int) -> Job:
        command = (*program, action, name, "--seeds", str(seed), *options)
        return Job(f"{action} {name}, seed {seed}", command, root / "logs" / f"{action}-{name}-{seed}.log")

    # The longest first, so that no core waits for another at the end.
    names = sorted(study.pretrainings, key=lambda name: len(study.pretrainings[name]), reverse=True)
    pretrainings = (
        product(names, range(study.pretrain_seeds)) if any(arm.pretraining for arm in arms(study)) else ()
    )
    run_jobs(
        [
            job("pretrain", name, seed)
            for name, seed in pretrainings
            if not pretraining_is_done(config, layout, root, name, seed)
        ],
        jobs,
    )
    run_jobs(
        [
            job("draw", str(arm), draw)
            for arm, draw in product(reversed(arms(study)), range(study.draws))
            if not draw_is_done(config, layout, root, arm, draw)
        ],
        jobs,
    )
    write_results(config, layout, root)


def run_jobs(jobs: Sequence[Job], at_once: int) -> None:
    """Run all jobs, `at_once` of them at a time; Ctrl-C and SIGTERM interrupt those that run.

    Raises:
        UserError: jobs failed; the others have run.
        KeyboardInterrupt: a signal stopped the jobs; those that had not begun are left out.
    """
    running: set[subprocess.Popen[bytes]] = set()
    stopping = Event()

    def run(job: Job) -> int:
        if stopping.is_set():
            return 1
        job.log.parent.mkdir(parents=True, exist_ok=True)
        environment = {"OMP_NUM_THREADS": "1", **os.environ}
        # In a process group of its own, a job gets a terminal's Ctrl-C once, from _interrupting.
        with (
            job.log.open("wb") as log,
            subprocess.Popen(
                job.command, stdout=log, stderr=subprocess.STDOUT, env=environment, process_group=0
            ) as process,
        ):
            running.add(process)
            if stopping.is_set():
                process.send_signal(signal.SIGINT)
            status = process.wait()
            running.discard(process)
        return status

    failed = []
    with _interrupting(running, stopping), ThreadPoolExecutor(at_once) as pool:
        futures = {pool.submit(run, job): job for job in jobs}
        for number, future in enumerate(as_completed(futures), start=1):
            job = futures[future]
            status = future.result()
            if status:
                failed.append(job)
            outcome = f"failed with status {status}, see {job.log}" if status else "done"
            print(f"study: {number} of {len(jobs)}: {job.title}: {outcome}", flush=True)
    if failed:
        last = failed[0].log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
        raise UserError(
            f"{len(failed)} of {len(jobs)} jobs failed, among them {failed[0].title} ({last}); "
            f"the logs are in {failed[0].log.parent}, and the same command runs them again"
        )


@contextmanager
def _interrupting(running: set[subprocess.Popen[bytes]], stopping: Event) -> Iterator[None]:
    """Pass SIGINT and SIGTERM on to the `running` processes, as Ctrl-C, and raise KeyboardInterrupt."""

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()
        for process in list(running):
            process.send_signal(signal.SIGINT)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
