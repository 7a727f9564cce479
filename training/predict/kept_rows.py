"""The rows of photos that are done, which an interrupted prediction leaves to the next one."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from common.files import disk_errors
from common.freshness import fingerprint
from training.predict.output import path_text


class KeptRows:
    """The rows of photos that are done, in a file that an interrupted run leaves to the next one.

    A line is a JSON list: what the rows were made from, and the rows of one photo. Lines that were made from
    anything else are not used, such as those of a photo that has changed since.

    Args:
        file: of the rows; None: nothing is kept.
        made_from: what all rows depend on, JSON values.
    """

    def __init__(self, file: Path | None, made_from: dict[str, Any]) -> None:
        self._file, self._made_from = file, fingerprint(made_from)
        self._kept: dict[str, list[dict[str, Any]]] = {}
        text = file.read_text(encoding="utf-8") if file and file.is_file() else ""
        for line in text.splitlines():
            with suppress(ValueError):  # the last one may be part of a line
                made_from_then, rows = json.loads(line)
                self._kept[made_from_then] = rows
        if file and text and not text.endswith("\n"):
            self._append("\n")

    def get(self, photo: Path) -> list[dict[str, Any]] | None:
        """The rows of a photo, if they are kept and it has not changed since."""
        return self._kept.get(self._of(photo) or "")

    def add(self, photo: Path, rows: list[dict[str, Any]]) -> None:
        """Keep the rows of a photo, unless it is missing."""
        if made_from := self._of(photo):
            self._kept[made_from] = rows
            self._append(json.dumps([made_from, rows]) + "\n")

    def _of(self, photo: Path) -> str | None:
        try:
            status = photo.stat()
        except (OSError, ValueError):  # a missing file, or a name with a null byte
            return None
        return fingerprint(self._made_from, path_text(photo), status.st_size, status.st_mtime_ns)

    def _append(self, text: str) -> None:
        if self._file:
            with disk_errors(self._file), self._file.open("a", encoding="utf-8") as stream:
                stream.write(text)

    def delete(self) -> None:
        """Delete the file, as the rows are in their table."""
        if self._file:
            self._file.unlink(missing_ok=True)
