"""The process that worker processes are forked from."""

import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing import forkserver
from tempfile import gettempdir
from typing import Final

from common.errors import UserError

# How worker processes start: forked from one that has imported what they need, so that it is imported once
# instead of by each, or anew where a fork is unsafe after such imports.
START_METHOD: Final = "forkserver" if sys.platform == "linux" else "spawn"


def start_fork_server(*modules: str) -> None:
    """Start the process, if it does not run yet, and let it import these modules while this one goes on.

    The first call decides about the modules. The process ends with this one, and not by Ctrl-C.

    Raises:
        UserError: the path of the folder for temporary files is too long for a socket in it.
    """
    if START_METHOD != "forkserver":
        return
    if len(os.fsencode(gettempdir())) > 75:  # with the name of a socket in it
        raise UserError(f"{gettempdir()}: too long for sockets; set TMPDIR to one of at most 75 bytes")
    multiprocessing.get_context(START_METHOD).set_forkserver_preload(list(modules))
    if threading.current_thread() is not threading.main_thread():
        forkserver.ensure_running()
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited, unlike a handler
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, before)
