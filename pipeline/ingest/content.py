"""Hash the bytes of every source, in parallel."""

import hashlib
import io
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from common.errors import UserError
from common.images import Refused
from common.progress import progress
from common.retry import Patience
from common.storage import Address, TransientError
from pipeline.ingest.listing import Source
from pipeline.source import MISSING, open_source

HASH_THREADS: Final = 8
HASH_WINDOW: Final = 1024
"""Sources that are queued for the threads at a time."""

BYTES_PER_PIXEL: Final = 8
"""No image needs more: 16-bit RGBA without compression."""


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of a source: their SHA-256 and number, or (reason, detail) why there are none."""

    sha256: str | None
    size: int
    refused: tuple[str, str] | None = None


def hash_sources(
    root: Address, sources: list[Source], max_pixels: int, retry_minutes: float
) -> list[Content]:
    """The content of every source, in order, with bounded memory.

    A file with more than `BYTES_PER_PIXEL` bytes for each of `max_pixels` is refused unread. What the store
    does not hand out is asked for again after all others, for `retry_minutes` without any progress.

    Raises:
        UserError: the store still does not hand out a source.
    """
    bar = progress("ingest", len(sources), "files")
    max_bytes = BYTES_PER_PIXEL * max_pixels
    contents: list[Content | TransientError] = [TransientError()] * len(sources)
    waiting = list(range(len(sources)))
    patience = Patience(retry_minutes)
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        while waiting:
            # In windows, because the pool queues a task for everything that it is given.
            for start in range(0, len(waiting), HASH_WINDOW):
                window = waiting[start : start + HASH_WINDOW]
                hashed = pool.map(lambda index: _hash(root, sources[index], max_bytes), window)
                for index, content in zip(window, hashed, strict=True):
                    contents[index] = content
                    bar.update(isinstance(content, Content))
            failed = [index for index in waiting if not isinstance(contents[index], Content)]
            if failed:
                patience = patience if len(failed) == len(waiting) else Patience(retry_minutes)
                _wait(patience, len(failed), contents[failed[0]])
            waiting = failed
    bar.close()
    return [content for content in contents if isinstance(content, Content)]


def _wait(patience: Patience, failed: int, cause: Content | TransientError) -> None:
    pause = patience.pause()
    if pause is None:
        raise UserError(
            f"{failed:,} files cannot be read ({cause}); nothing was planned, so nothing is lost: "
            "run the same command again when the input answers"
        )
    print(f"ingest: {failed:,} files cannot be read ({cause}); again in {pause:.0f} s", file=sys.stderr)
    time.sleep(pause)


def _hash(root: Address, source: Source, max_bytes: int) -> Content | TransientError:
    if source.refused:
        return Content(None, 0, source.refused)
    try:
        with open_source(root, source.path) as stream:
            size = stream.seek(0, io.SEEK_END)
            if size > max_bytes:
                return Content(None, size, ("too-large", f"{size:,} bytes, more than {max_bytes:,}"))
            stream.seek(0)
            digest = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
    except Refused as refused:
        labelled = source.attributes is not None and refused.detail == MISSING
        return Content(None, 0, ("label-without-image" if labelled else refused.reason, refused.detail))
    except TransientError as error:
        return error
    return Content(digest, size, None if size else ("empty", "the file has no bytes"))
