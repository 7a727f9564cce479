"""Adapter for a plain folder: every image below it, without labels."""

from common.input_files import Tree, photos
from pipeline.ingest.listing import Listing, Source


def recognised(tree: Tree) -> bool:
    """Whether an input is a folder, of whatever files."""
    return not tree.is_file


def read(tree: Tree) -> Listing:
    """List all images below the input except hidden ones, and count the other files.

    Raises:
        UserError: there are only other files.
    """
    files, remarks = photos(tree)
    return Listing((Source(file.path, refused=file.refused) for file in files), (), False, remarks)
