"""Attributes of the faces in photos, by a classifier's file alone.

::

    from training.predict.predict import Predictor

    predictor = Predictor.load("classifier.pt")
    for face in predictor("photo.jpg"):
        print(face.box, face.present, face.probabilities["Smiling"])
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from facexlib.detection.retinaface import RetinaFace
from numpy.typing import NDArray

from common.alignment.crops import Crop, aligned_crops
from common.alignment.detector import load_detector
from common.alignment.recipe import Recipe
from common.config import load
from common.errors import UserError
from common.images import Refused, decode_photo
from common.shards import decode_face, encode_face
from common.weights import find
from training.engine import checkpoint
from training.engine.device import default_device
from training.export.deployed import Deployed
from training.models.classifier import read_classifier
from training.predict.thresholds import read_thresholds


@dataclass(frozen=True)
class Face:
    """A face of a photo and what was predicted of it.

    Attributes:
        box: left, top, right, bottom in pixels of the upright photo.
        score: the detector's, 0 to 1; None where nothing was detected.
        image: uint8 RGB (S, S, 3), the aligned face as the classifier saw it.
        probabilities: 0 to 1, by attribute.
        present: attributes whose probability reaches their threshold.
    """

    box: tuple[float, float, float, float]
    score: float | None
    image: NDArray[np.uint8]
    probabilities: dict[str, float]
    present: list[str]


class Predictor:
    """A classifier that takes photos as they are.

    Attributes:
        attributes: names, in the classifier's order.
        recipe: how faces are aligned, as the pipeline did it; all faces of a photo are taken.
        thresholds: by attribute.
        thresholds_from: ``val``, or ``none known`` where all are 0.5.
        model: the network, from aligned faces to probabilities.
    """

    def __init__(
        self, model: Deployed, recipe: Recipe, thresholds: dict[str, float], said: str, weights: Path | None
    ) -> None:
        self._device = default_device()
        self.model = model.to(self._device).eval()
        self.recipe = recipe
        self.attributes = list(thresholds)
        self.thresholds, self.thresholds_from = thresholds, said
        self._weights = weights

    @classmethod
    def load(cls, path: str | Path, thresholds: str | Path | None = None, detect: bool = False) -> Self:
        """A predictor from ``classifier.pt``.

        Args:
            path: written by fine-tuning or by ``training.export``.
            thresholds: ``attributes.json`` or ``labels.json``; see `read_thresholds`.
            detect: find faces even if the classifier learnt from pictures that were aligned already.
                They are aligned as facexlib does, which is not how those were.

        Raises:
            UserError: a file is missing or does not fit, or the detector's weights cannot be had.
        """
        path = Path(path)
        model, state = read_classifier(path), checkpoint.load(path)
        if "facts" not in state:
            raise UserError(f"{path}: does not say how faces were aligned; fine-tune again")
        recipe = Recipe.model_validate(state["facts"]["alignment"])
        mode = "detect" if detect else recipe.align.mode
        align = recipe.align.model_copy(update={"faces": "all", "mode": mode})
        recipe = recipe.model_copy(update={"align": align})
        chosen = None if thresholds is None else Path(thresholds)
        deployed = Deployed(model, align.size, int(state["config"]["network"]["input_size"]))
        weights = find(align.detector, load().weights) if mode == "detect" else None
        return cls(deployed, recipe, *read_thresholds(state, path, chosen), weights)

    def __call__(self, photo: str | Path) -> list[Face]:
        """All faces of a photo, the largest first.

        Raises:
            Refused: it cannot be read or decoded, or shows no face; its ``reason`` is a short code.
        """
        return self.predict(self.read(photo))

    def read(self, photo: str | Path) -> NDArray[np.uint8]:
        """The upright RGB picture, uint8 (H, W, 3), in a file.

        Raises:
            Refused: see `decode_photo`, and ``unreadable`` or ``not-a-file``.
        """
        try:
            if not Path(photo).is_file() and Path(photo).exists():
                raise Refused("not-a-file", "a folder, a pipe, a socket or a device")
            data = Path(photo).read_bytes()
        except (OSError, ValueError) as error:
            raise Refused("unreadable", getattr(error, "strerror", None) or str(error)) from error
        return decode_photo(data, self.recipe.max_pixels, self.recipe.min_side)

    def predict(self, picture: NDArray[np.uint8]) -> list[Face]:
        """All faces of an upright RGB picture, uint8 (H, W, 3), the largest first.

        Raises:
            Refused: ``no-face`` or ``face-outside``.
        """
        align = self.recipe.align
        with _one_thread():
            crops = aligned_crops(picture, align, self._detector())
        # The pipeline stores faces as JPEG, so the classifier has only ever seen them after it.
        faces = [decode_face(encode_face(crop.image, align.jpeg_quality)) for crop in crops]
        with torch.inference_mode():
            batch = torch.from_numpy(np.stack(faces)).to(self._device)
            chances = self.model(batch).double().cpu().numpy()
        return [
            self._face(picture, crop, face, row)
            for crop, face, row in zip(crops, faces, chances, strict=True)
        ]

    def _detector(self) -> RetinaFace | None:
        return load_detector(self.recipe.align.detector, self._weights) if self._weights else None

    def _face(
        self,
        picture: NDArray[np.uint8],
        crop: Crop,
        face: NDArray[np.uint8],
        chances: NDArray[np.float64],
    ) -> Face:
        if crop.face is None:
            height, width = picture.shape[:2]
            side = min(height, width)
            left, top = (width - side) // 2, (height - side) // 2
            box = (float(left), float(top), float(left + side), float(top + side))
        else:
            left, top, right, bottom = (round(float(edge), 2) for edge in crop.face.box)
            box = (left, top, right, bottom)
        probabilities = {
            name: round(float(chance), 6) for name, chance in zip(self.attributes, chances, strict=True)
        }
        present = [name for name, chance in probabilities.items() if chance >= self.thresholds[name]]
        return Face(
            box, None if crop.face is None else round(crop.face.score, 6), face, probabilities, present
        )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute as the pipeline's workers do: with more threads landmarks differ in the last digits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
