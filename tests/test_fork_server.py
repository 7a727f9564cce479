"""The process that workers are forked from: Ctrl-C does not upset it, and it ends with the command."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.errors import UserError
from common.fork_server import start_fork_server

ROOT = Path(__file__).resolve().parent.parent

PROGRAM = """
import signal, time
from common.fork_server import start_fork_server
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits that it is ignored
start_fork_server("pipeline.parse.shard")
print("started", flush=True)
try:
    time.sleep(600)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_ctrl_c_while_it_imports_is_the_commands_alone_and_it_ends_with_the_command() -> None:
    driver = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert driver.stdout is not None
    assert driver.stdout.readline() == "started\n"
    time.sleep(1)  # until it is in the middle of its imports, on most machines
    os.killpg(driver.pid, signal.SIGINT)
    stdout, stderr = driver.communicate(timeout=600)  # until the server has closed its standard error, too
    assert (stdout, stderr, driver.returncode) == ("interrupted\n", "", 0)


def test_a_folder_for_temporary_files_that_is_too_long_for_sockets_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = "/tmp/" + "x" * 94
    monkeypatch.setattr("tempfile.tempdir", folder)
    with pytest.raises(UserError, match=f"{folder}: too long for sockets; set TMPDIR"):
        start_fork_server()
