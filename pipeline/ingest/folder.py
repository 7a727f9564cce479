"""Adapter for a plain folder: every file below it, without labels."""

from common.storage import Address, is_folder
from pipeline.ingest.files import list_files
from pipeline.ingest.listing import Listing, Source


def recognised(path: Address) -> bool:
    """Whether `path` is a folder, of whatever files."""
    return is_folder(path)


def read(path: Address) -> Listing:
    """List all files below `path` except hidden ones."""
    sources = [Source(file.path, refused=file.refused) for file in list_files(path)]
    return Listing(sources, (), aligned=False)
