"""Where a classifier looks, per attribute, on the average face."""

import json
import re
from pathlib import Path
from typing import Any, Final

import cv2
import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.files import replacing, write_text
from common.page.fonts import font_for
from training.explain.attribution import mean_maps
from training.explain.faces import Faces
from training.explain.regions import mean_region_maps
from training.models.classifier import Classifier
from training.models.probe import Probe

matplotlib.use("agg")

from matplotlib.figure import Figure

RAISES: Final = np.array([214, 69, 28], np.float64)
LOWERS: Final = np.array([28, 101, 196], np.float64)
"""RGB of attribution above and below the mean over the map."""

OPACITY: Final = 0.75
"""Of the strongest colour, so that the face remains visible."""

COLUMNS: Final = 8


def explain(classifier: Classifier, checkpoint: Path, faces: Faces, output: Path) -> None:
    """Average attribution maps over faces; write an image per attribute, ``sheet.png``, ``maps.json``.

    An image shows three faces: the attribution where the attribute is present, where it is absent, and the
    difference. Its name is a number and what the attribute's name has of plain letters and digits.
    ``sheet.png`` shows the differences of all attributes.

    Args:
        classifier: a network or a probe; of a probe, faces show what their regions contribute, and
            ``maps.json`` has the regions' shares.
        checkpoint: its file, for messages.
        faces: with labels.
        output: folder.

    Raises:
        UserError: the classifier is of another kind, or there are no faces.
    """
    details: list[dict[str, Any]]
    if isinstance(classifier, Probe):
        read = faces(classifier.members | {"jpg", "mask.png"})
        maps, average, shares = mean_region_maps(classifier, read)
        titles = [max(each, key=lambda region: each[region]) for each in shares]
        details = [{"regions": each} for each in shares]
    else:
        model = classifier.require_network(checkpoint, "explanation")
        pictures = ((batch.images, labels) for batch, labels in faces(classifier.members))
        maps, average = mean_maps(model, pictures)
        branch_of = {position: branch for branch, group in model.groups.items() for position in group}
        titles = [branch_of[position] for position in range(len(maps))]
        details = [{"branch": branch} for branch in titles]
    rows = -(-len(maps) // COLUMNS)
    sheet = Figure(figsize=(1.6 * COLUMNS, 2.0 * rows), layout="constrained", dpi=100)
    cells = sheet.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes in cells:
        axes.set_axis_off()
    entries, font = [], font_for(classifier.attributes)
    for position, (name, means) in enumerate(zip(classifier.attributes, maps, strict=True)):
        images = [overlay(average, each) for each in (means.present, means.absent, means.difference)]
        file = f"{position:03}-{re.sub('[^A-Za-z0-9]+', '-', name)[:60].strip('-')}.png"
        with replacing(output / file) as temporary:
            Image.fromarray(np.hstack(images)).save(temporary, format="png")
        present, absent = means.counts
        entry = {"name": name, **details[position], "file": file}
        entries.append({**entry, "present": present, "absent": absent})
        cells[position].imshow(images[-1])
        title = font.shown(f"{name.replace('_', ' ')}\n{titles[position]}")
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
