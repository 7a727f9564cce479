"""The draws of the study, each a command in a process of its own, several at a time."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Event
from types import FrameType
from typing import Any

from common.errors import UserError


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
