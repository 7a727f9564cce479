"""Where a classifier looks, per attribute, on the average test face."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import cv2
import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from common.errors import UserError
from common.files import replacing, write_text
from common.layout import Layout
from common.page.fonts import font_for
from common.pipeline_config import Stream
from common.progress import progress
from common.sampling import evenly_spaced
from training.data.loader import load
from training.data.sampler import sequential_batches
from training.data.samples import read_samples
from training.explain.attribution import mean_maps
from training.models.classifier import load_classifier

matplotlib.use("agg")

from matplotlib.figure import Figure

RAISES: Final = np.array([214, 69, 28], np.float64)
LOWERS: Final = np.array([28, 101, 196], np.float64)
"""RGB of attribution above and below the mean over the map."""

OPACITY: Final = 0.75
"""Of the strongest colour, so that the face remains visible."""

COLUMNS: Final = 8


def explain(
    checkpoint: Path, layout: Layout, output: Path, count: int, batch_size: int, stream: Stream
) -> None:
    """Average attribution maps over test faces; write an image per attribute, ``sheet.png``, ``maps.json``.

    An image shows three faces: the attribution where the attribute is present, where it is absent, and the
    difference. Its name is a number and what the attribute's name has of plain letters and digits.
    ``sheet.png`` shows the differences of all attributes.

    Args:
        checkpoint: ``classifier.pt`` of a network.
        layout: the shards.
        output: folder.
        count: faces at most, evenly spaced over the test split.
        batch_size: faces per batch.
        stream: the cache of remote shards.

    Raises:
        UserError: the checkpoint is missing or of no network, or no test face has labels of its attributes.
    """
    model = load_classifier(checkpoint).require_network(checkpoint, "explanation")
    samples = read_samples(layout, ("test",)).labelled()
    if not len(samples) or tuple(samples.attribute_names) != model.attributes:
        raise UserError(f"{layout.shards} has no test face with labels for the attributes of {checkpoint}")
    samples = samples.take(evenly_spaced(count, len(samples)))
    bar = progress("explain", len(samples), "faces")

    def batches() -> Iterator[tuple[Tensor, NDArray[np.int8]]]:
        for batch in load(samples, sequential_batches(samples, batch_size), {"jpg"}, 1, stream):
            yield batch.images, samples.attributes[batch.indices.numpy()]
            bar.update(len(batch.indices))

    maps, average = mean_maps(model, batches())
    bar.close()
    branch_of = {position: branch for branch, group in model.groups.items() for position in group}
    rows = -(-len(maps) // COLUMNS)
    sheet = Figure(figsize=(1.6 * COLUMNS, 2.0 * rows), layout="constrained", dpi=100)
    cells = sheet.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes in cells:
        axes.set_axis_off()
    entries, font = [], font_for(model.attributes)
    for position, (name, means) in enumerate(zip(model.attributes, maps, strict=True)):
        images = [overlay(average, each) for each in (means.present, means.absent, means.difference)]
        file = f"{position:03}-{re.sub('[^A-Za-z0-9]+', '-', name)[:60].strip('-')}.png"
        with replacing(output / file) as temporary:
            Image.fromarray(np.hstack(images)).save(temporary, format="png")
        present, absent = means.counts
        entry = {"name": name, "branch": branch_of[position], "file": file}
        entries.append({**entry, "present": present, "absent": absent})
        cells[position].imshow(images[-1])
        title = font.shown(f"{name.replace('_', ' ')}\n{branch_of[position]}")
        cells[position].set_title(title, font=Path(font.file), fontsize=8, parse_math=False)
    write_text(output / "maps.json", json.dumps({"attributes": entries}, indent=2) + "\n")
    with replacing(output / "sheet.png") as temporary:
        sheet.savefig(temporary, format="png", metadata={"Software": None})
    print(f"explain: {len(entries)} attributes in {output}, all on {output / 'sheet.png'}")


def overlay(face: NDArray[np.float64], attribution: NDArray[np.float64] | None) -> NDArray[np.uint8]:
    """A map, float (s, s) or None, over a face in grey, float RGB 0..255 (S, S, 3): uint8 RGB (S, S, 3).

    Red is above the map's mean and blue below, since every location contributes to most logits.
    """
    grey = face.mean(axis=2, keepdims=True).repeat(3, axis=2)
    if attribution is None:
        return np.rint(grey).astype(np.uint8)
    centred = attribution - attribution.mean()
    resized = cv2.resize(centred, grey.shape[1::-1], interpolation=cv2.INTER_LINEAR)[..., None]
    strength = OPACITY * np.abs(resized) / (np.abs(centred).max() or 1.0)
    blended = (1 - strength) * grey + strength * np.where(resized > 0, RAISES, LOWERS)
    return np.rint(blended).astype(np.uint8)
