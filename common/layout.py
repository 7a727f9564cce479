"""Where outputs lie, and the mark that keeps them from being read as photos when they lie inside an input.

Shards, manifests and aligned faces may be local folders or fsspec addresses.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common.errors import UserError
from common.files import write_text
from common.storage import Address, address, is_file

SPLITS: Final = ("train", "val", "test", "unlabelled")
# The default output folder; its manifests lie beside it, those of any other folder inside.
DEFAULT_SHARDS: Final = Path("shards")
MARKER: Final = ".output-not-input"

OWN_OUTPUT: Final = ("own-output", "a folder of this project's output, which is no input")


@dataclass(frozen=True)
class Layout:
    """The folders that one run of the pipeline writes and the trainer reads."""

    shards: Address  # holds ``<dataset>/<split>-NNNNNN.tar``
    manifests: Address  # holds ``source.parquet``, ``shards.parquet`` and ``quarantine.parquet``
    aligned: Address  # holds ``<dataset>/<split>-NNNNNN.tar`` of aligned faces

    @classmethod
    def at(cls, output: str | Address) -> "Layout":
        """The layout below `output`; ``shards/`` keeps its manifests in the sibling ``manifests/``.

        Raises:
            UserError: `output` is an address that cannot be reached.
        """
        output = address(output)
        if output == DEFAULT_SHARDS:
            return cls(shards=output, manifests=Path("manifests"), aligned=Path("aligned"))
        return cls(shards=output, manifests=output / "manifests", aligned=output / "aligned")

    @property
    def source(self) -> Address:
        """One row per input, planned or refused."""
        return self.manifests / "source.parquet"

    @property
    def samples(self) -> Address:
        """One row per sample in a shard."""
        return self.manifests / "shards.parquet"

    @property
    def quarantine(self) -> Address:
        """One row per input that did not become a sample."""
        return self.manifests / "quarantine.parquet"

    def require_samples(self) -> Address:
        """The path of ``shards.parquet``; a `UserError` if there are no finished shards here."""
        if not is_file(self.samples):
            raise UserError(
                f"{self.samples} is missing: {self.shards}/ has no finished shards. "
                "Make them with `python -m pipeline.parse --input FOLDER`, or name them with --shards."
            )
        return self.samples


def mark_new(folder: Path, flag: str) -> None:
    """Mark a folder of output that holds nothing else.

    Raises:
        UserError: it holds other files, which the mark would hide; names the `flag` that chose it.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARKER).is_file():
        raise UserError(f"{folder} holds other files; name a new folder with {flag}")
    mark_output(folder)


def mark_output(folder: Address) -> None:
    """Mark a folder whose files are output; it is made if it is missing."""
    if not is_file(folder / MARKER):
        write_text(folder / MARKER, "The files in this folder are output, and are not read as photos.\n")
