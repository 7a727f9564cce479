"""An adapter's listing of an input: its sources, their labels, and those that cannot be used."""

from dataclasses import dataclass
from typing import Final

OFFICIAL_SPLITS: Final = ("train", "val", "test")
"""The splits that a data set can name."""


@dataclass(frozen=True, slots=True)
class Source:
    """One input as its data set describes it.

    Attributes:
        path: relative to the input folder, with forward slashes; ``shard.tar::member`` in a tar.
        split: the data set's own ``train``, ``val`` or ``test``; None if it has none.
        identity: the person in it, or None.
        attributes: 0, 1 or None (unknown) per attribute name; None if there is no label.
        refused: (reason, detail) if the adapter already knows that it cannot be used.
    """

    path: str
    split: str | None = None
    identity: str | None = None
    attributes: tuple[int | None, ...] | None = None
    refused: tuple[str, str] | None = None

    @property
    def labelled(self) -> bool:
        """Whether at least one label is known."""
        return any(label is not None for label in self.attributes or ())


@dataclass(frozen=True)
class Listing:
    """All inputs of a data set.

    Attributes:
        sources: sorted by path.
        attributes: names of the labels, in the data set's order.
        aligned: whether the images are aligned faces already.
        remarks: sentences about what was found and not used.
    """

    sources: list[Source]
    attributes: tuple[str, ...]
    aligned: bool
    remarks: tuple[str, ...] = ()
