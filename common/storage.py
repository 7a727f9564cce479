"""Where files lie: local paths and fsspec addresses such as ``s3://bucket/celeba``, behind one type.

A local path stays an ordinary `pathlib.Path`; anything else is a `UPath` of
universal_pathlib, which offers the same methods over fsspec. Credentials and
endpoints come from the environment, as fsspec's implementations read them.
"""

from pathlib import Path
from typing import TypeAlias

from upath import UPath

from common.errors import UserError

Address: TypeAlias = Path | UPath


def address(text: str | Address) -> Address:
    """The address that `text` names.

    Raises:
        UserError: nothing is known of its protocol, or the package that speaks it is not installed.
    """
    try:
        if isinstance(found := UPath(text), Path):
            return Path(found)
        # Cached listings would hide what other processes have written since.
        found = UPath(text, use_listings_cache=False)
        found.fs.invalidate_cache()
    except (ImportError, ValueError) as error:
        raise UserError(f"{text}: cannot be reached ({error}); s3:// needs `pip install s3fs`") from error
    return found


def is_local(place: Address) -> bool:
    """Whether a place lies in this machine's file system."""
    return isinstance(place, Path)
