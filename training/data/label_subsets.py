"""``python -m training.subsets``: nested subsets of the labelled train faces, as lists to cite.

1 % is part of 2 %, per seed. A list is a text file: lines that start with ``#`` say where it
comes from, every other line is the key of a sample, sorted.
"""

import argparse
import hashlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common import command, manifest
from common.errors import UserError
from common.files import write_text
from common.layout import DEFAULT_SHARDS, Layout
from common.storage import Address
from training.data.samples import Samples, read_samples

EXAMPLES = """\
  python -m training.subsets --labels 1% 5% --output subsets
  python -m training.subsets --shards OUT --labels 1% 2% 5% --seed 3 --output subsets"""


def labelled_subset(faces: Samples, share: float, seed: int) -> NDArray[np.int64]:
    """Positions of the first `share` of faces in an order drawn from the keys and the seed.

    The order does not depend on how the faces lie in shards. At least one face is taken.
    """
    ranks = [hashlib.sha256(f"{seed}:{key}".encode()).digest() for key in faces.keys]
    order = np.array(sorted(range(len(faces)), key=ranks.__getitem__), np.int64)
    return np.sort(order[: max(1, round(share * len(faces)))])


def write_subsets(layout: Layout, shares: Iterable[float], seed: int, output: Path) -> list[Path]:
    """Write one list per share, such as ``seed0-1%.txt``; equal shards give equal bytes.

    Raises:
        UserError: there are no finished shards, or no labelled train face in them.
    """
    faces = read_samples(layout, ("train",)).labelled()
    if not len(faces):
        raise UserError(f"{layout.shards} has no labelled train face to draw from")
    name = manifest.read(layout.samples, ["key"]).metadata["dataset"]
    digest = hashlib.sha256(layout.samples.read_bytes()).hexdigest()
    written = []
    for share in shares:
        keys = sorted(faces.keys[position] for position in labelled_subset(faces, share, seed))
        head = [
            f"# data set: {name}",
            f"# shards.parquet: sha256 {digest}",
            f"# seed: {seed}",
            f"# count: {len(keys)} of {len(faces)} labelled train faces ({share * 100:g} %)",
        ]
        written.append(output / f"seed{seed}-{share * 100:g}%.txt")
        write_text(written[-1], "\n".join([*head, *keys]) + "\n")
    return written


def read_subset(file: Address, faces: Samples) -> NDArray[np.int64]:
    """Positions in `faces` of the keys of a list, sorted.

    Raises:
        UserError: the file cannot be read, is empty, or has a key twice or one that `faces` has
            not; the message names the line.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: no list of keys ({error}); make one with training.subsets") from error
    listed = [(number, line.strip()) for number, line in enumerate(lines, 1)]
    listed = [(number, key) for number, key in listed if key and not key.startswith("#")]
    if not listed:
        raise UserError(f"{file} lists no key")
    position = {key: index for index, key in enumerate(faces.keys)}
    unknown = [(number, key) for number, key in listed if key not in position]
    if unknown:
        number, key = unknown[0]
        raise UserError(
            f"{file}, line {number}: {key} is no labelled train face of these shards "
            f"({len(unknown):,} of {len(listed):,} keys are not); the list was made for others"
        )
    twice = [key for key, count in Counter(key for _, key in listed).items() if count > 1]
    if twice:
        number = [number for number, key in listed if key == twice[0]][1]
        raise UserError(f"{file}, line {number}: {twice[0]} is listed twice; delete one")
    return np.sort(np.array([position[key] for _, key in listed], np.int64))


def share(text: str) -> float:
    """A share of the labelled faces, above 0 and up to 1, from a word such as ``5%`` or ``0.05``.

    Raises:
        argparse.ArgumentTypeError: the word is no such share.
    """
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share above 0 and up to 1, such as 5% or 0.05")
    return value


def main() -> None:
    """Read the command line and write the lists."""
    parser = command.parser("Draw nested subsets of the labelled train faces and list their keys.", EXAMPLES)
    parser.add_argument("--shards", default=str(DEFAULT_SHARDS), metavar="DIR", help="the pipeline's output")
    parser.add_argument("--labels", type=share, nargs="+", required=True, metavar="SHARE", help="such as 5%%")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="which draw (default: 0)")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the lists")
    options = parser.parse_args()
    for path in write_subsets(Layout.at(options.shards), options.labels, options.seed, options.output):
        print(f"subsets: {path}")
