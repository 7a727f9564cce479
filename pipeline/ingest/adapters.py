"""The adapters of all input layouts: small modules with the functions of `Adapter`.

To add one, name it in `ADAPTERS` and in ``ingest.format`` of the configuration.

Recognition fails closed: an input that may hold labels which no adapter understands is an error, and
only ``ingest.format=folder`` reads it as photos without labels.
"""

from dataclasses import replace
from typing import Final, Protocol

from common.errors import UserError
from common.input_files import FileTree
from common.storage import Address, is_file, is_folder
from common.tables import Database
from pipeline.ingest import celeba, folder, lfwa, table, utkface, webdataset
from pipeline.ingest.listing import Listing, join_labels, store_listing
from pipeline.ingest.rows import SUFFIXES


class Adapter(Protocol):
    """The functions of an adapter module."""

    def recognised(self, tree: FileTree) -> bool:
        """Whether an input is laid out as this data set."""

    def read(self, tree: FileTree) -> Listing:
        """List all sources of an input.

        Raises:
            UserError: a label file is malformed; names file and line. Iterating sources may raise it too.
        """


# The adapters by format; for ``auto``, the first that recognises the input reads it.
ADAPTERS: Final[dict[str, Adapter]] = {
    "celeba": celeba,
    "lfwa": lfwa,
    "table": table,
    "webdataset": webdataset,
    "utkface": utkface,
    "folder": folder,
}


def store_sources(
    database: Database, path: Address, form: str = "auto", labels: Address | None = None
) -> tuple[FileTree, Listing]:
    """Make the table ``listed`` of an input; gives its files, and what else its adapter tells of it.

    `form` is a key of `ADAPTERS`, or ``auto``. A table of `labels` is joined to the sources, whose labels of
    the same names it replaces; it is then not taken for the input itself.

    Raises:
        UserError: the input is missing, empty or of no known kind, its label files are malformed, or the
            table of labels names no source.
    """
    if not is_file(path) and not is_folder(path):
        raise UserError(f"{path} is not a folder; --input names a folder of photos")
    tree = FileTree(path)
    listing = _adapter(tree, form, labels is not None).read(tree)
    store_listing(database, "listed", listing)
    if database.execute("SELECT count(*) FROM listed").fetchall() == [(0,)]:
        raise UserError(f"{tree.path} holds no files; --input names a folder of photos")
    if labels is None:
        return tree, listing
    rows = table.read(tree, labels)
    store_listing(database, "label_rows", rows)
    own = str(labels).removeprefix(f"{tree.root}/")
    missing = f"{labels.name} has a row for it, but {tree.root} has no such file"
    attributes = join_labels(database, listing.attributes, rows.attributes, own, missing)
    return tree, replace(listing, attributes=attributes, remarks=(*listing.remarks, *rows.remarks))


def _adapter(tree: FileTree, form: str, has_labels: bool) -> Adapter:
    if form != "auto":
        if tree.is_file and form not in ("table", "webdataset"):
            raise UserError(f"{tree.path} is not a folder; the format {form} is a folder")
        return ADAPTERS[form]
    own = table if has_labels and not tree.is_file else None  # which may be the labels
    recognising = next(
        (each for each in ADAPTERS.values() if each is not own and each.recognised(tree)), None
    )
    if recognising is None:
        raise UserError(f"{tree.path} is neither a folder nor a {', '.join(SUFFIXES)} or .tar file")
    if recognising is folder and not has_labels:
        folder.check_unlabelled(tree)
    return recognising
