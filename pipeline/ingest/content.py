"""Hash the bytes of every source, in parallel."""

import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from common.progress import progress
from common.storage import Address
from pipeline.ingest.listing import Source
from pipeline.source import open_source

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


def hash_sources(root: Address, sources: list[Source], max_pixels: int) -> list[Content]:
    """The content of every source, in order, with bounded memory.

    A file with more than `BYTES_PER_PIXEL` bytes for each of `max_pixels` is refused unread.
    """
    bar = progress("ingest", len(sources), "files")
    max_bytes = BYTES_PER_PIXEL * max_pixels
    contents: list[Content] = []
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        # In windows, because the pool queues a task for everything that it is given.
        for start in range(0, len(sources), HASH_WINDOW):
            window = sources[start : start + HASH_WINDOW]
            contents.extend(pool.map(lambda source: _hash(root, source, max_bytes), window))
            bar.update(len(window))
    bar.close()
    return contents


def _hash(root: Address, source: Source, max_bytes: int) -> Content:
    if source.refused:
        return Content(None, 0, source.refused)
    try:
        with open_source(root, source.path) as stream:
            size = stream.seek(0, io.SEEK_END)
            if size > max_bytes:
                return Content(None, size, ("too-large", f"{size:,} bytes, more than {max_bytes:,}"))
            stream.seek(0)
            digest = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
    except FileNotFoundError:
        reason = "unreadable" if source.attributes is None else "label-without-image"
        return Content(None, 0, (reason, "the file does not exist"))
    except OSError as error:
        return Content(None, 0, ("unreadable", error.strerror or str(error)))
    return Content(digest, size, None if size else ("empty", "the file has no bytes"))
