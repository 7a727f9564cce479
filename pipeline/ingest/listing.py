"""What an adapter says of an input folder, and which adapter reads which layout."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from contract.errors import UserError


@dataclass(frozen=True)
class Source:
    """One input as its data set describes it.

    Attributes:
        path: relative to the input folder, with forward slashes.
        split: the data set's own ``train``, ``val`` or ``test``; None if it has none.
        identity: who it is, or None.
        attributes: 0, 1 or None (unknown) per attribute name; None if there is no label.
        refused: (reason, detail) if the adapter already knows that it cannot be used.
    """

    path: str
    split: str | None = None
    identity: str | None = None
    attributes: tuple[int | None, ...] | None = None
    refused: tuple[str, str] | None = None


@dataclass(frozen=True)
class Listing:
    """All inputs of a folder.

    Attributes:
        sources: sorted by path.
        attributes: names of the labels, in the data set's order.
        aligned: whether the images are aligned faces already.
    """

    sources: list[Source]
    attributes: tuple[str, ...]
    aligned: bool


Adapter = Callable[[Path], Listing]


def read_listing(root: Path) -> Listing:
    """List a folder with the adapter that fits its layout.

    Raises:
        UserError: the folder is missing or empty, or its label files are malformed.
    """
    from pipeline.ingest import celeba, folder

    if not root.is_dir():
        raise UserError(f"{root} is no folder; --input names a folder of photos")
    adapter: Adapter = celeba.read if celeba.recognised(root) else folder.read
    listing = adapter(root)
    if not listing.sources:
        raise UserError(f"{root} holds no files; --input names a folder of photos")
    return listing
