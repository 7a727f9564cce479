"""The adapters of all input layouts.

An adapter is a small module with two functions: ``recognised(path)`` tells whether the input has
its layout, ``read(path)`` lists the sources. To add one, name it in `ADAPTERS` and in
``ingest.format`` of the configuration.
"""

from typing import Final, Protocol

from common.errors import UserError
from common.storage import Address, is_file, is_folder
from pipeline.ingest import celeba, folder, lfwa, table, utkface, webdataset
from pipeline.ingest.files import folder_of
from pipeline.ingest.join import join_labels
from pipeline.ingest.listing import Listing


class Adapter(Protocol):
    """The functions of an adapter module."""

    def recognised(self, path: Address) -> bool:
        """Whether `path`, a folder or a file that exists, is laid out as this data set."""

    def read(self, path: Address) -> Listing:
        """List all sources of `path`.

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
"""The adapters by format; for ``auto``, the first that recognises the input reads it."""


def read_listing(path: Address, form: str = "auto", labels: Address | None = None) -> Listing:
    """List an input with the adapter of the format `form`, or with the one that recognises it.

    Args:
        path: the input.
        form: a key of `ADAPTERS`, or ``auto``.
        labels: a table of labels that is joined to the listing; it is then not taken for the input itself.

    Raises:
        UserError: the input is missing, empty or of no known kind, or its label files are malformed.
    """
    if not is_file(path) and not is_folder(path):
        raise UserError(f"{path} is not a folder; --input names a folder of photos")
    if form == "auto":
        adapters = [adapter for adapter in ADAPTERS.values() if not labels or adapter is not table]
        recognising = next((adapter for adapter in adapters if adapter.recognised(path)), None)
        if recognising is None:
            raise UserError(f"{path} is neither a folder nor a .csv, .parquet or .tar file")
        adapter = recognising
    else:
        adapter = ADAPTERS[form]
        if is_file(path) and form not in ("table", "webdataset"):
            raise UserError(f"{path} is not a folder; the format {form} is a folder")
    listing = adapter.read(path)
    if not listing.sources:
        raise UserError(f"{path} holds no files; --input names a folder of photos")
    return join_labels(listing, labels, folder_of(path)) if labels else listing
