"""The output of a run at an fsspec address: a local copy, which is uploaded as it changes."""

import hashlib
import os
import shutil
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Final

from upath import UPath

from common.pipeline_config import Stream
from common.retry import retried
from common.storage import Address, TransientError, store_errors
from training.engine.distributed import Ranks

SECONDS: Final = 60.0
"""Between two uploads of what has changed."""


@contextmanager
def local_output(
    output: Address, names: Collection[str], stream: Stream, ranks: Ranks, seconds: float = SECONDS
) -> Iterator[Path]:
    """The local folder of `output`: itself, or a copy of what an address holds, which is kept up to date.

    The first process uploads changed files, in the order in which they were written, every so many seconds
    and at the end, also of a run that fails. An outage does not stop the run; at the end, uploads are
    tried again for ``stream.retry_minutes``.

    Args:
        output: local folder or fsspec address.
        names: of the folders below the address that are copied at the start; nothing else there is read.
        stream: the cache in which the copy lies.
        ranks: the first process of each machine makes the copy.
        seconds: between two uploads.

    Raises:
        TransientError: the store did not answer.
    """
    if isinstance(output, Path):
        yield output
        return
    mirror = _Mirror(output, stream)
    with ranks.failing_together():
        if os.environ.get("LOCAL_RANK", "0") == "0":
            mirror.download(names)
    if not ranks.first:
        yield mirror.folder
        return
    print(f"{output}: results are written to {mirror.folder} and uploaded every {seconds:.0f} s")
    ended = Event()
    thread = Thread(target=mirror.keep_uploading, args=(ended, seconds), name="upload", daemon=True)
    thread.start()
    try:
        yield mirror.folder
    finally:
        ended.set()
        thread.join()
        mirror.upload(stream.retry_minutes)


class _Mirror:
    """A local copy of some folders below an address.

    Attributes:
        folder: the local copy.
    """

    def __init__(self, root: UPath, stream: Stream) -> None:
        self._root, self._stream = root, stream
        name = hashlib.sha256(str(root).encode()).hexdigest()[:16]
        self.folder = stream.folder / "outputs" / name
        self._uploaded: dict[str, tuple[int, int]] = {}

    def download(self, names: Collection[str]) -> None:
        """Replace the local copy by what the address holds."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        for name in names:
            retried(lambda name=name: self._download(name), self._stream.retry_minutes, "output")  # type: ignore[misc]
        self._uploaded = self._present()

    def keep_uploading(self, ended: Event, seconds: float) -> None:
        """Upload what has changed from time to time; an outage is printed, and the next time tried again."""
        while not ended.wait(seconds):
            try:
                self.upload(0.0)
            except TransientError as error:
                print(f"output: {error}; trying again in {seconds:.0f} s", file=sys.stderr, flush=True)

    def upload(self, minutes: float) -> None:
        """Upload what has changed, and delete at the address what has been deleted here."""
        present = self._present()
        for name, state in sorted(present.items(), key=lambda entry: entry[1]):
            if self._uploaded.get(name) != state:
                retried(lambda name=name: self._put(name), minutes, "output")  # type: ignore[misc]
                self._uploaded[name] = state
        for name in self._uploaded.keys() - present.keys():
            retried(lambda name=name: self._delete(name), minutes, "output")  # type: ignore[misc]
            del self._uploaded[name]

    def _download(self, name: str) -> None:
        with store_errors(self._root):
            for path in self._root.fs.find((self._root / name).path):
                target = self.folder / os.path.relpath(path, self._root.path)
                target.parent.mkdir(parents=True, exist_ok=True)
                self._root.fs.get_file(path, str(target))

    def _put(self, name: str) -> None:
        with store_errors(self._root):
            try:
                self._root.fs.put_file(str(self.folder / name), (self._root / name).path)
            except FileNotFoundError:
                if (self.folder / name).exists():
                    raise  # else the run has deleted the file meanwhile

    def _delete(self, name: str) -> None:
        with store_errors(self._root):
            self._root.fs.rm_file((self._root / name).path)

    def _present(self) -> dict[str, tuple[int, int]]:
        """Time of the last change and size of each complete file, by its path below the folder."""
        states = {}
        for file in self.folder.rglob("*"):
            if file.is_file() and not file.name.endswith(".partial"):
                stat = file.stat()
                states[file.relative_to(self.folder).as_posix()] = (stat.st_mtime_ns, stat.st_size)
        return states
