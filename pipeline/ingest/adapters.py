"""The adapters of all input layouts.

An adapter is a small module with two functions: ``recognised(tree)`` tells whether the input has
its layout, ``read(tree)`` lists the sources. To add one, name it in `ADAPTERS` and in
``ingest.format`` of the configuration.

Recognition fails closed: an input that may hold labels which no adapter understands is an error, and
only ``ingest.format=folder`` reads it as photos without labels.
"""

from typing import Final, Protocol

from common.errors import UserError
from common.input_files import Tree
from common.storage import Address, is_file, is_folder
from pipeline.ingest import celeba, folder, lfwa, rows, table, utkface, webdataset
from pipeline.ingest.join import join_labels
from pipeline.ingest.listing import Listing
from pipeline.ingest.unlabelled import check_unlabelled


class Adapter(Protocol):
    """The functions of an adapter module."""

    def recognised(self, tree: Tree) -> bool:
        """Whether an input is laid out as this data set."""

    def read(self, tree: Tree) -> Listing:
        """List all sources of an input.

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


def label_files(tree: Tree) -> list[str]:
    """The paths of the files of an input that hold labels, splits or identities alone; not of its tars."""
    if tree.is_file:
        return table.files(tree) if table.recognised(tree) else []
    names = (*celeba.LABEL_FILES, *lfwa.LABEL_FILES)
    return sorted({*tree.named(*names), *table.files(tree)})


def open_tree(path: Address) -> Tree:
    """The files of an input.

    Raises:
        UserError: there is none.
    """
    if not is_file(path) and not is_folder(path):
        raise UserError(f"{path} is not a folder; --input names a folder of photos")
    return Tree(path)


def read_listing(path: Address, form: str = "auto", labels: Address | None = None) -> Listing:
    """List an input with the adapter of the format `form`, or with the one that recognises it.

    Args:
        path: the input.
        form: a key of `ADAPTERS`, or ``auto``.
        labels: a table of labels that is joined to the listing; it is then not taken for the input itself.

    Raises:
        UserError: the input is missing, empty or of no known kind, or its label files are malformed.
    """
    return read_tree(open_tree(path), form, labels)


def read_tree(tree: Tree, form: str = "auto", labels: Address | None = None) -> Listing:
    """The listing of an input that is there, as `read_listing` makes it."""
    path = tree.path
    if form == "auto":
        adapters = [adapter for adapter in ADAPTERS.values() if not labels or adapter is not table]
        recognising = next((adapter for adapter in adapters if adapter.recognised(tree)), None)
        if recognising is None:
            raise UserError(f"{path} is neither a folder nor a {', '.join(rows.SUFFIXES)} or .tar file")
        if recognising is folder and not labels:
            check_unlabelled(tree)
        adapter = recognising
    else:
        adapter = ADAPTERS[form]
        if tree.is_file and form not in ("table", "webdataset"):
            raise UserError(f"{path} is not a folder; the format {form} is a folder")
    listing = adapter.read(tree)
    if not len(listing.sources):
        raise UserError(f"{path} holds no files; --input names a folder of photos")
    return join_labels(listing, labels, tree) if labels else listing
