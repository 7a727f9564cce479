"""Join a table of labels to the photos of a folder."""

from dataclasses import replace

from common.errors import UserError
from common.storage import Address
from pipeline.ingest import table
from pipeline.ingest.files import Tree
from pipeline.ingest.labels import Label
from pipeline.ingest.listing import Listing


def join_labels(listing: Listing, labels: Address, tree: Tree) -> Listing:
    """The listing with the labels, splits and identities that a table has for its sources.

    A source without a row stays as it is; a row without a source is refused as ``label-without-image``.

    Args:
        listing: the sources; labels that they have already stay, as further attributes.
        labels: a table as `pipeline.ingest.table` reads it, whose paths are relative to the input.
        tree: the input.

    Raises:
        UserError: the table is malformed, has a label that the data set has already, or names no source.
    """
    root = tree.root
    rows = table.read(tree, labels)
    twice = sorted(set(rows.attributes) & set(listing.attributes))
    if twice:
        raise UserError(f"{labels}: the data set has labels named {twice[0]} already; rename the column")
    row_of = {row.path: row for row in rows.sources}
    own, joined = (None,) * len(listing.attributes), (None,) * len(rows.attributes)
    sources = []
    for source in listing.sources:
        if row := row_of.pop(source.path, None):
            split, identity = row.split or source.split, row.identity or source.identity
            source = replace(source, split=split, identity=identity)
        attributes = (*(source.attributes or own), *((row and row.attributes) or joined))
        if str(root / source.path) != str(labels):
            sources.append(replace(source, attributes=_known(attributes)))
    missing = ("label-without-image", f"{labels.name} has a row for it, but {root} has no such file")
    for row in row_of.values():
        attributes = (*own, *(row.attributes or joined))
        sources.append(replace(row, attributes=_known(attributes), refused=row.refused or missing))
    names = (*listing.attributes, *rows.attributes)
    return Listing(
        sorted(sources, key=lambda source: source.path),
        names,
        listing.aligned,
        (*listing.remarks, *rows.remarks),
    )


def _known(labels: tuple[Label, ...]) -> tuple[Label, ...] | None:
    return labels if any(label is not None for label in labels) else None
