"""``python -m training.explain``: where the classifier looks, per attribute, on the average test face."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import cv2
import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from common import command
from common.config import Config
from common.errors import UserError
from common.files import replacing, write_text
from common.layout import DEFAULT_SHARDS, Layout
from common.progress import progress
from common.sampling import evenly_spaced
from training.data.loader import load
from training.data.sampler import sequential_batches
from training.data.samples import read_samples
from training.explain.attribution import mean_maps
from training.models.classifier_file import read_classifier

matplotlib.use("agg")

from matplotlib.figure import Figure

TOWARDS: Final = np.array([214, 69, 28], np.float64)
AWAY: Final = np.array([28, 101, 196], np.float64)
"""RGB of contributions above and below those of the mean place."""

OPACITY: Final = 0.75
"""Of the strongest colour, so that the face shows through."""

COLUMNS: Final = 8

EXAMPLES = """\
  python -m training.explain --checkpoint runs/finetune/pretrained-5%/classifier.pt
  python -m training.explain --checkpoint classifier.pt --shards OUT --output OUT/runs/explain --faces 500"""


def explain(config: Config, file: Path, layout: Layout, output: Path, count: int) -> None:
    """Average the maps over at most `count` test faces, evenly spread; write pictures and ``maps.json``.

    ``NAME.png`` shows three faces: contributions where the attribute is present, where it is absent, and
    their difference. ``sheet.png`` has the differences of all attributes.

    Raises:
        UserError: the checkpoint is missing, or the shards have no test face with its attributes' labels.
    """
    model = read_classifier(file)
    faces = read_samples(layout, ("test",)).labelled()
    if not len(faces) or tuple(faces.attribute_names) != model.attributes:
        raise UserError(f"{layout.shards} has no test face with labels for the attributes of {file}")
    faces = faces.take(evenly_spaced(count, len(faces)))
    bar = progress("explain", len(faces), "faces")

    def batches() -> Iterator[tuple[Tensor, NDArray[np.int8]]]:
        for batch in load(
            faces, sequential_batches(faces, config.evaluate.batch_size), {"jpg"}, 1, config.stream
        ):
            yield batch.images, faces.attributes[batch.indices.numpy()]
            bar.update(len(batch.indices))

    maps, average = mean_maps(model, model.config.input_size, batches())
    bar.close()
    branch_of = {position: branch for branch, group in model.groups.items() for position in group}
    entries, tiles = [], []
    for position, (name, found) in enumerate(zip(faces.attribute_names, maps, strict=True)):
        pictures = [overlay(average, each) for each in (found.present, found.absent, found.difference)]
        with replacing(output / f"{name}.png") as temporary:
            Image.fromarray(np.hstack(pictures)).save(temporary, format="png")
        entry = {"name": name, "branch": branch_of[position], "file": f"{name}.png"}
        entries.append({**entry, "present": found.counts[0], "absent": found.counts[1]})
        tiles.append((f"{name.replace('_', ' ')}\n{branch_of[position]}", pictures[-1]))
    write_text(output / "maps.json", json.dumps({"attributes": entries}, indent=2) + "\n")
    _sheet(tiles, output / "sheet.png")
    print(f"explain: {len(entries)} attributes in {output}, all on {output / 'sheet.png'}")


def overlay(average: NDArray[np.float64], found: NDArray[np.float64] | None) -> NDArray[np.uint8]:
    """A map, float (s, s) or None, over a grey face, float RGB 0..255 (S, S, 3): uint8 RGB (S, S, 3).

    Red is more than at the mean place and blue less, as every place contributes to most answers.
    """
    grey = average.mean(axis=2, keepdims=True).repeat(3, axis=2)
    if found is None:
        return np.rint(grey).astype(np.uint8)
    centred = found - found.mean()
    large = cv2.resize(centred, grey.shape[1::-1], interpolation=cv2.INTER_LINEAR)[..., None]
    strength = OPACITY * np.abs(large) / (np.abs(centred).max() or 1.0)
    shown = (1 - strength) * grey + strength * np.where(large > 0, TOWARDS, AWAY)
    return np.rint(shown).astype(np.uint8)


def _sheet(tiles: list[tuple[str, NDArray[np.uint8]]], file: Path) -> None:
    rows = -(-len(tiles) // COLUMNS)
    figure = Figure(figsize=(1.6 * COLUMNS, 2.0 * rows), layout="constrained", dpi=100)
    for axes in figure.subplots(rows, COLUMNS, squeeze=False).flat:
        axes.set_axis_off()
    for axes, (title, picture) in zip(figure.axes, tiles, strict=False):
        axes.imshow(picture)
        axes.set_title(title, fontsize=8)
    with replacing(file) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def main() -> None:
    """Read the command line and explain one classifier."""
    parser = command.parser("Show where a classifier looks, averaged over the test faces.", EXAMPLES)
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="classifier.pt")
    parser.add_argument("--shards", default=str(DEFAULT_SHARDS), metavar="DIR", help="the pipeline's output")
    parser.add_argument("--output", type=Path, default=Path("runs/explain"), metavar="DIR")
    parser.add_argument("--faces", type=int, default=500, metavar="N", help="at most so many (default: 500)")
    options = parser.parse_args()
    if options.faces < 1:
        raise UserError("--faces must be at least 1")
    config = command.config_from(options)
    explain(config, options.checkpoint, Layout.at(options.shards), options.output, options.faces)
