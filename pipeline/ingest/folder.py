"""Adapter for a plain folder: every file below it, without labels."""

from pipeline.ingest.files import Tree
from pipeline.ingest.listing import Listing, Source


def recognised(tree: Tree) -> bool:
    """Whether an input is a folder, of whatever files."""
    return not tree.is_file


def read(tree: Tree) -> Listing:
    """List all files below the input except hidden ones."""
    sources = [Source(file.path, refused=file.refused) for file in tree.files]
    return Listing(sources, (), aligned=False)
