"""The faces that an explanation is averaged over: of shards with labels, or of photos with predictions."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from common.errors import UserError
from common.files import replacing, write_text
from common.layout import Layout
from common.page.fonts import font_for
from common.photo import Refused
from common.pipeline_config import Stream
from common.progress import progress
from common.sampling import evenly_spaced
from training.data.loader import Batch, load
from training.data.sampler import sequential_batches
from training.data.samples import read_samples
from training.explain.attribution import mean_maps, mean_region_maps
from training.models.classifier import Classifier
from training.models.probe import Probe
from training.models.stored_features import require_members
from training.predict.predict import photos_in
from training.predict.predictor import Predictor

# RGB of attribution above and below the mean over the map.
RAISES: Final = np.array([214, 69, 28], np.float64)
LOWERS: Final = np.array([28, 101, 196], np.float64)
OPACITY: Final = 0.75  # Of the strongest colour, so that the face remains visible
COLUMNS: Final = 8  # Of ``sheet.png``

# Batches with the members that `members_read` names, and labels, (B, A), 0 or 1, -1 where unknown.
Faces = Iterator[tuple[Batch, NDArray[np.int8]]]


def members_read(classifier: Classifier) -> frozenset[str]:
    """The members of samples that an explanation reads: of a probe, pictures and masks too."""
    return classifier.members | ({"jpg", "mask.png"} if isinstance(classifier, Probe) else set())


def faces_of_shards(
    classifier: Classifier, layout: Layout, count: int, batch_size: int, stream: Stream
) -> Faces:
    """At most `count` test faces, evenly spaced, `batch_size` at a time, with their true labels.

    Raises:
        UserError: no test face has labels of the classifier's attributes.
    """
    samples = read_samples(layout, ("test",)).labelled()
    if not len(samples) or tuple(samples.attribute_names) != classifier.attributes:
        raise UserError(f"{layout.shards} has no test face with labels for the attributes of the classifier")
    samples, members = samples.take(evenly_spaced(count, len(samples))), members_read(classifier)
    require_members(samples, members)
    bar = progress("explain", len(samples), "faces")
    for batch in load(samples, sequential_batches(samples, batch_size), members, 1, stream):
        yield batch, samples.attributes[batch.indices.numpy()]
        bar.update(len(batch.indices))
    bar.close()


def faces_of_photos(predictor: Predictor, paths: Sequence[Path], count: int) -> Faces:
    """The faces of at most `count` photos; an attribute that is predicted to be present has label 1.

    Raises:
        UserError: no photo has a face.
    """
    photos, names = photos_in(list(paths))[0], predictor.classifier.attributes
    chosen, members = evenly_spaced(count, len(photos)), members_read(predictor.classifier)
    bar, seen = progress("explain", len(chosen), "photos"), False
    for photo in (photos[position] for position in chosen):
        with suppress(Refused):
            if not photo.refused:
                faces, seen = predictor(photo.file), True
                labels = np.array([[name in face.present for name in names] for face in faces], np.int8)
                yield predictor.batch(np.stack([face.image for face in faces]), members), labels
        bar.update(1)
    bar.close()
    if not seen:
        raise UserError(f"{', '.join(map(str, paths))}: no photo with a face to explain")


def explain(classifier: Classifier, checkpoint: Path, faces: Faces, output: Path) -> None:
    """Average attribution maps over faces; write an image per attribute, ``sheet.png``, ``maps.json``.

    An image shows three faces: the attribution where the attribute is present, where it is absent, and the
    difference. Its name is a number and what the attribute's name has of plain letters and digits.
    ``sheet.png`` shows the differences of all attributes.

    Args:
        classifier: a network or a probe; of a probe, faces show what their regions contribute, and
            ``maps.json`` has the regions' shares.
        checkpoint: its file, for messages.

    Raises:
        UserError: the classifier is of another kind, or there are no faces.
    """
    details: list[dict[str, Any]]
    if isinstance(classifier, Probe):
        maps, average, shares = mean_region_maps(classifier, faces)
        titles = [max(each, key=lambda region: each[region]) for each in shares]
        details = [{"regions": each} for each in shares]
    else:
        model = classifier.require_network(checkpoint, "explanation")
        maps, average = mean_maps(model, ((batch.images, labels) for batch, labels in faces))
        branch_of = {position: branch for branch, group in model.groups.items() for position in group}
        titles = [branch for _, branch in sorted(branch_of.items())]
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
        counts = dict(zip(("present", "absent"), means.counts, strict=True))
        entries.append({"name": name, **details[position], "file": file, **counts})
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
