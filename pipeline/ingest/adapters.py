"""Which adapter reads which input.

An adapter is a module of two functions, one small file each: ``recognised(place)`` says whether
the layout is its own, ``read(place)`` lists the sources. To add one, name it in `ADAPTERS` and in
``ingest.format`` of the configuration.
"""

from typing import Final, Protocol

from common.errors import UserError
from common.storage import Address
from pipeline.ingest import celeba, folder, lfwa, table, utkface, webdataset
from pipeline.ingest.listing import Listing


class Adapter(Protocol):
    """What a module offers to be an adapter."""

    def recognised(self, place: Address) -> bool:
        """Whether `place`, a folder or a file that exists, is laid out as this data set."""

    def read(self, place: Address) -> Listing:
        """List all sources of `place`.

        Raises:
            UserError: a label file is malformed; the message names file and line.
        """


ADAPTERS: Final[dict[str, Adapter]] = {
    "celeba": celeba,
    "lfwa": lfwa,
    "table": table,
    "webdataset": webdataset,
    "utkface": utkface,
    "folder": folder,
}
"""By the name of their format; without one, the first that recognises the input reads it."""


def read_listing(place: Address, form: str = "auto") -> Listing:
    """List an input with the adapter of the format `form`, or with the one that recognises it.

    Raises:
        UserError: the input is missing, empty or of no known kind, or its label files are malformed.
    """
    if not place.exists():
        raise UserError(f"{place} is no folder; --input names a folder of photos")
    if form == "auto":
        found = next((adapter for adapter in ADAPTERS.values() if adapter.recognised(place)), None)
        if found is None:
            raise UserError(f"{place} is no folder, no .csv, .parquet or .tar file; name one of these")
        adapter = found
    else:
        adapter = ADAPTERS[form]
        if place.is_file() and form not in ("table", "webdataset"):
            raise UserError(f"{place} is no folder; the format {form} is a folder")
    listing = adapter.read(place)
    if not listing.sources:
        raise UserError(f"{place} holds no files; --input names a folder of photos")
    return listing
