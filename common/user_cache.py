"""The user's own cache, and when a file in it takes the place of one that others share."""

import os
from pathlib import Path

from common.errors import UserError


def user_cache() -> Path:
    """The folder of this project in the user's cache.

    Raises:
        UserError: the user has no home.
    """
    folder = os.environ.get("XDG_CACHE_HOME")  # empty counts as unset, as the XDG specification says
    try:
        return (Path(folder) if folder else Path.home() / ".cache") / "sspl-faces"
    except RuntimeError as error:
        raise UserError(
            "there is no folder for weights: this user has no home; name one as weights.cache in params.yaml "
            "or set XDG_CACHE_HOME"
        ) from error


def readable_or_own(file: Path) -> Path:
    """A file of a folder that other users may share, or the one in the user's own cache that takes its place.

    It does where the file cannot be read, or is missing from a folder that cannot be written.
    """
    if os.access(file, os.R_OK, effective_ids=True):
        return file
    folder = next(parent for parent in file.absolute().parents if parent.exists())
    usable = not file.exists() and os.access(folder, os.W_OK | os.X_OK, effective_ids=True)
    return file if usable else user_cache() / file.name
