"""The files of an input folder, and which of them may be read: one policy for all adapters and for
prediction.

Hidden files are skipped, and so is this project's output (`common.layout`). Links are
followed only to files inside the input folder or in a cache of Hugging Face or DVC, and never to
folders, whose files are listed anyway.
"""

import errno
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Final

from upath import UPath

from common.errors import UserError
from common.images import HEAD, RAW_SUFFIXES, SUFFIXES, looks_like_image
from common.layout import MARKER, OWN_OUTPUT
from common.storage import Address, is_file, is_transient, listed_stamp, printable, stat_stamp

Refusal = tuple[str, str]

# Suffixes of what lies beside photos and is no image: such files are not opened to find out.
SIDE_SUFFIXES: Final = {
    ".json", ".jsonl", ".txt", ".csv", ".tsv", ".parquet", ".xml", ".yaml", ".yml", ".html", ".md",
    ".xmp", ".aae", ".npy", ".npz", ".mat", ".pts", ".pkl", ".db", ".ini", ".zip", ".tar", ".pdf",
    ".mp3", ".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".3gp",
}  # fmt: skip

MOST_KINDS: Final = 8  # Kinds of side files that are named
# Paths in Hugging Face's and DVC's caches, whose snapshots and working copies are links to such files.
CACHED: Final = re.compile(r"/blobs/([0-9a-f]{40}|[0-9a-f]{64})$|/files/md5/[0-9a-f]{2}/[0-9a-f]{30}$")
ARCHIVES: Final = (".zip", ".7z", ".7z.001", ".rar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclass(frozen=True, slots=True)
class File:
    """A file below the input folder."""

    path: str  # relative to the folder, with forward slashes
    refused: Refusal | None = None  # (reason, detail) if it must not be read
    # as `common.storage.listed_stamp` makes it, if a remote listing tells when the file changed
    stamp: str | None = None


class FileTree:
    """An input at `path`, a folder or a file, and all files below `root`, to which paths are relative."""

    def __init__(self, path: Address) -> None:
        self.path, self.is_file = path, is_file(path)
        self.root = path.parent if self.is_file else path

    @cached_property
    def files(self) -> list[File]:
        """All files below `root`, sorted."""
        return list_files(self.root)

    @cached_property
    def images(self) -> list[str]:
        """The paths of those that are called like images."""
        return [file.path for file in self.files if is_image(file.path)]

    def named(self, *names: str) -> list[str]:
        """The paths of the files that are called one of `names`, whatever their case."""
        wanted = {name.lower() for name in names}
        return [file.path for file in self.files if file.path.rpartition("/")[2].lower() in wanted]

    def stamps(self, paths: Iterable[str]) -> list[str | None]:
        """For each path, what changes when the file's content does: its size, and its time or entity tag.

        None for a file that does not exist, or of which no such thing is known. No file is read.
        """
        if isinstance(self.root, Path):
            return [_local_stamp(f"{self.root}/{path}") for path in paths]
        return [self._listed_stamps.get(path) for path in paths]

    @cached_property
    def _listed_stamps(self) -> dict[str, str]:
        return {file.path: file.stamp for file in self.files if file.stamp}

    def archives(self) -> list[str]:
        """The paths of packed archives."""
        return [file.path for file in self.files if file.path.lower().endswith(ARCHIVES)]


def _suffix(path: str) -> str:
    return path[path.rfind(".") :].lower()


def is_image(path: str) -> bool:
    """Whether a file is called like an image."""
    return _suffix(path) in SUFFIXES


def photos(tree: FileTree) -> tuple[list[File], tuple[str, ...]]:
    """The files of a tree that are images by name or by first bytes, and a remark about the others.

    What must not be read is among them; a raw file beside its image in another format is not.

    Raises:
        UserError: there is no image.
    """
    images, others = list[File](), Counter[str]()
    developed = {stem(path) for path in tree.images if _suffix(path) not in RAW_SUFFIXES}
    for file in tree.files:
        if file.refused == OWN_OUTPUT:
            others["this project's output"] += 1
        elif _suffix(file.path) in RAW_SUFFIXES and stem(file.path) in developed:
            others[_suffix(file.path)] += 1
        elif file.refused or is_image(file.path) or _begins_like_image(tree.root, file.path):
            images.append(file)
        else:
            name = file.path.rpartition("/")[2]
            others[Path(name).suffix.lower() or name] += 1
    kinds = ", ".join(f"{kind} ({count:,})" for kind, count in others.most_common(MOST_KINDS))
    kinds += f" and {len(others) - MOST_KINDS:,} other kinds" if len(others) > MOST_KINDS else ""
    if others and not images:
        raise UserError(f"{tree.path} holds no images, only {kinds}; name a folder of photos")
    return images, (f"{others.total():,} files are no photos: {kinds}",) if others else ()


def _begins_like_image(root: Address, path: str) -> bool:
    if _suffix(path) in SIDE_SUFFIXES:
        return False
    try:
        with (root / path).open("rb") as stream:
            return looks_like_image(stream.read(HEAD))
    except (PermissionError, FileNotFoundError):
        return True


def stem(path: str) -> str:
    """A path without the suffix of an image; other suffixes are part of the name."""
    return path[: path.rfind(".")] if is_image(path) else path


def list_files(root: Address, under: str = "") -> list[File]:
    """All files below the folder `under` of `root`, sorted; paths are relative to `root`.

    Raises:
        UserError: `under` is a link out of `root`.
    """
    files = _local(root, under) if isinstance(root, Path) else _remote(root, under)
    return sorted(files, key=lambda file: file.path)


def refusal(root: Path, path: str) -> Refusal | None:
    """Why the local file `path` below `root` must not be read, or None if it may.

    A missing file is not refused here, but when it is read.

    Raises:
        OSError: the file system does not answer.
    """
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return "bad-name", "the name is not UTF-8"
    file = root / path
    target, inside = Path(os.path.realpath(file)), Path(os.path.realpath(root))
    if not target.is_relative_to(inside) and not CACHED.search(target.as_posix()):
        return "link-outside", "a symbolic link that leaves the input folder"
    try:
        mode = file.stat().st_mode
    except FileNotFoundError:
        return ("unreadable", "a symbolic link to nothing") if file.is_symlink() else None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "link-loop", "a symbolic link that leads back to itself"
        if is_transient(error):
            raise
        return "unreadable", error.strerror or str(error)
    if stat.S_ISDIR(mode):
        if Path(os.path.realpath(file.parent)).is_relative_to(target):
            return "link-loop", "a symbolic link to a folder that holds it"
        return "link-folder", "a symbolic link to a folder, whose files are listed in that folder"
    return None if stat.S_ISREG(mode) else ("not-a-file", "a pipe, a socket or a device")


class LocalFiles:
    """Local files below a folder, of which millions are looked at: one system call for each."""

    def __init__(self, root: Path) -> None:
        self._root, self._real = root, os.path.realpath(root)
        self._is_plain = lru_cache(4096)(self._has_no_link)  # of so many folders

    def mode(self, path: str) -> int | None:
        """The type and permissions of a file, a folder or a link itself; None if there is none."""
        try:
            return os.lstat(f"{self._root}/{path}").st_mode
        except (OSError, ValueError):  # a name with a null byte
            return None

    def refusal(self, path: str, mode: int) -> Refusal | None:
        """Why the file with this mode must not be read, as `refusal` says."""
        if stat.S_ISREG(mode) and path.isascii() and self._is_plain(path.rpartition("/")[0]):
            return None
        return refusal(self._root, path)

    def _has_no_link(self, folder: str) -> bool:
        return os.path.realpath(f"{self._real}/{folder}") == f"{self._real}/{folder}".rstrip("/")


def _local(root: Path, under: str) -> Iterator[File]:
    if under and (refused := refusal(root, under)) and refused[0] == "link-outside":
        raise UserError(f"{root / under} is {refused[1]}; copy it, or bind-mount it, into {root}")
    folders = [under]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(root / folder) as scan:
                entries = list(scan)
        except PermissionError as error:
            yield File(printable(folder or "."), ("unreadable", f"the folder: {error.strerror}"))
            continue
        if folder != under and any(entry.name == MARKER for entry in entries):
            yield File(printable(folder), OWN_OUTPUT)
            continue
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(path)
            elif entry.is_file(follow_symlinks=False) and path.isascii():
                yield File(path)
            else:
                yield File(printable(path), refusal(root, path))


def _local_stamp(path: str) -> str | None:
    try:
        return stat_stamp(os.stat(path))  # noqa: PTH116 - a Path of each of millions takes longer than this
    except (OSError, ValueError):  # a name with a null byte
        return None


def _remote(root: UPath, under: str) -> Iterator[File]:
    start = root.path.rstrip("/") + "/"
    paths = root.fs.find(start + under, detail=True)
    marked = tuple(
        folder
        for path in paths
        if path.endswith(f"/{MARKER}") and (folder := path.removesuffix(MARKER)) != start
    )
    yield from (File(folder.removeprefix(start).rstrip("/"), OWN_OUTPUT) for folder in marked)
    for path, listed in paths.items():
        relative = path.removeprefix(start)
        if path.startswith(marked):
            continue
        if not relative.endswith("/") and not any(part.startswith(".") for part in relative.split("/")):
            stamp = listed_stamp(listed)
            yield File(relative, stamp=None if stamp.endswith(" ") else stamp)
