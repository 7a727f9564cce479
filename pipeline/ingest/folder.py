"""Adapter for a plain folder: every file below it, without labels."""

import os
from pathlib import Path

from pipeline.ingest.listing import Listing, Source


def read(root: Path) -> Listing:
    """List all files below `root` except hidden ones; links are not followed out of the folder."""
    inside = root.resolve()
    sources = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if name.startswith("."):
                continue
            path = Path(folder, name)
            relative = path.relative_to(root).as_posix()
            try:
                relative.encode("utf-8")
            except UnicodeEncodeError:
                shown = os.fsencode(relative).decode("utf-8", "backslashreplace")
                sources.append(Source(shown, refused=("bad-name", "the name is not UTF-8")))
                continue
            refused = None
            if path.is_symlink() and not path.resolve().is_relative_to(inside):
                refused = ("link-outside", "a symbolic link that leaves the input folder")
            sources.append(Source(relative, refused=refused))
    return Listing(sorted(sources, key=lambda source: source.path), (), aligned=False)
