"""Adapter for a plain folder: every file below it, without labels."""

from common.storage import Address
from pipeline.ingest.files import list_files
from pipeline.ingest.listing import Listing, Source


def recognised(place: Address) -> bool:
    """Whether `place` is a folder, of whatever files."""
    return place.is_dir()


def read(place: Address) -> Listing:
    """List all files below `place` except hidden ones."""
    sources = [Source(file.path, refused=file.refused) for file in list_files(place)]
    return Listing(sources, (), aligned=False)
