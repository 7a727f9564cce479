"""Local paths and fsspec addresses such as ``s3://bucket/celeba``, behind one type.

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
        UserError: its protocol is unknown, or the package that implements it is not installed.
    """
    try:
        if isinstance(path := UPath(text), Path):
            return Path(path)
        # Cached listings would hide what other processes have written since.
        path = UPath(text, use_listings_cache=False)
        path.fs.invalidate_cache()
    except (ImportError, ValueError) as error:
        raise UserError(f"{text}: cannot be reached ({error}); s3:// needs `pip install s3fs`") from error
    return path


def is_local(path: Address) -> bool:
    """Whether a path lies in this machine's file system."""
    return isinstance(path, Path)
