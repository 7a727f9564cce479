"""Which image a row of a label file means."""

import unicodedata
from collections import defaultdict
from collections.abc import Collection, Mapping
from math import inf

from common.errors import UserError
from common.input_files import FileTree, Refusal, stem


class ImageIndex:
    """The files of an input by name.

    A row names an image by its path, or by the end of its path that begins at a folder or file name. An
    extension may be missing or another image's; Unicode forms and, if need be, case do not matter.
    """

    def __init__(self, tree: FileTree) -> None:
        self._files: dict[str, list[str]] = defaultdict(list)
        for file in tree.files:
            self._files[_loose(file.path).rpartition("/")[2]].append(file.path)

    def find(self, name: str, where: str) -> str | None:
        """The path of the image that a row names, or None.

        Raises:
            UserError: several images fit equally well; the message starts with `where`.
        """
        paths = self._files.get(_loose(name).rpartition("/")[2], ())
        ranked = [(_rank(path, name), path) for path in paths]
        best = min((rank for rank, _ in ranked), default=inf)
        fitting = [path for rank, path in ranked if rank == best < inf]
        if len(fitting) > 1:
            raise UserError(
                f"{where}: {name} may mean {fitting[0]} or {fitting[1]}; name the folder in the path"
            )
        return fitting[0] if fitting else None


def unmatched(tree: FileTree, file: str, row: str) -> UserError:
    """The error of a label file of which no row has an image; `row` is the name in one of its rows."""
    if tree.images:
        return UserError(
            f"{file}: no row matches an image; a row names {row}, an image is called {tree.images[0]}; "
            "make the paths relative to the input folder"
        )
    if archives := tree.archives():
        return UserError(f"{tree.root} has no images yet; unpack {archives[0]}")
    return UserError(f"{file}: no row matches an image; a row names {row}, and {tree.root} has no images")


def join_rows(
    tree: FileTree,
    file: str,
    rows: Collection[str],
    images: Mapping[str, Refusal | None],
    depth: int,
    detail: str,
    folder: str | None = None,
) -> list[tuple[str, str, Refusal | None]]:
    """The images of an input, by path, and the rows of a label file without one: path, name, refusal.

    `rows` are names of images without suffixes: the last `depth` parts of their paths. A row without an
    image, with this `detail` of its refusal, is given a path in `folder`, or in that of the first image with
    a row.

    Raises:
        UserError: no row has an image.
    """
    names = {path: stem("/".join(path.split("/")[-depth:])) for path in images}
    rowless = {*rows}.difference(names.values())
    if rows and len(rowless) == len(rows):
        raise unmatched(tree, file, f"{next(iter(rows))}.jpg")
    if folder is None:
        folder = next(("/".join(path.split("/")[:-depth]) for path in names if names[path] in rows), "")
    missing = {f"{folder}/{name}.jpg".lstrip("/"): name for name in rowless}
    refused = {**images, **dict.fromkeys(missing, ("label-without-image", detail))}
    return [(path, name, refused[path]) for path, name in sorted({**names, **missing}.items())]


def _loose(path: str) -> str:
    return stem(unicodedata.normalize("NFC", path)).casefold()


def _rank(path: str, name: str) -> float:
    """How well an image's path fits a row's name: 0 is best, infinity not at all."""
    path, name = (unicodedata.normalize("NFC", text) for text in (path, name))
    pairs = ((path, name), (stem(path), stem(name)), (_loose(path), _loose(name)))
    fits = [fit for whole, end in pairs for fit in (whole == end, whole.endswith(f"/{end}"))]
    return fits.index(True) if any(fits) else inf
