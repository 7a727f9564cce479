"""Commands of the project in the process of the test, which saves the seconds that imports take; programs."""

import contextlib
import io
import runpy
import subprocess
import sys
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).resolve().parent.parent


def run_command(module: str, *arguments: object, cwd: Path | None = None) -> CompletedProcess[str]:
    """What ``python -m module arguments`` prints in the folder `cwd`, and its status."""
    texts = [str(argument) for argument in arguments]
    out, err, status = io.StringIO(), io.StringIO(), 0
    with (
        contextlib.chdir(cwd or Path.cwd()),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        patch.object(sys, "argv", [module, *texts]),
    ):
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=False)
        except SystemExit as end:
            status = int(end.code or 0)
    return CompletedProcess(texts, status, out.getvalue(), err.getvalue())


def run_python(code: str, *arguments: object, **options: Any) -> CompletedProcess[str]:
    """What a new Python in the project's folder prints for a program, and its status."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    standard = {"cwd": ROOT, "check": False, "text": True}
    return subprocess.run(command, capture_output=True, **standard | options)
