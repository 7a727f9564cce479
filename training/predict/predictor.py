"""Attributes of the faces in photos, from a classifier's file alone.

::

    from training.predict import Predictor

    predictor = Predictor.load("classifier.pt")
    for face in predictor("photo.jpg"):
        print(face.box, face.present, face.probabilities["Smiling"])
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, Self

import numpy as np
import torch
from facexlib.detection.retinaface import RetinaFace
from numpy.typing import NDArray

from common.alignment.crops import Crop, aligned_crops
from common.alignment.detector import load_detector, one_thread
from common.alignment.recipe import Recipe
from common.alignment.warp import FACE_TEMPLATE
from common.config import load
from common.errors import UserError
from common.images import Refused, check_bytes, decode_photo
from common.section import Precision
from common.shards import decode_face, encode_face
from common.weights import find
from training.engine.device import autocast, default_device
from training.models.classifier_file import read_classifier_file
from training.models.inference import face_logits
from training.predict.inference_model import InferenceModel
from training.predict.thresholds import Thresholds, read_thresholds

Alignment = Literal["auto", "detect", "none"]
"""Whether faces are detected; with ``auto``, a classifier that was trained on images that were already
aligned also predicts from the central square of a photo without a detected face."""

CENTRAL_SQUARE: Final = "no face was detected; this is the photo's central square"


@dataclass(frozen=True)
class Face:
    """A face of a photo and its predicted attributes.

    Attributes:
        box: left, top, right, bottom in pixels of the upright photo.
        score: the detector's score, 0 to 1; None where no detector ran.
        image: uint8 RGB (S, S, 3), the aligned face as the classifier saw it.
        probabilities: 0 to 1, by attribute.
        present: attributes whose probability reaches their threshold.
        detail: `CENTRAL_SQUARE` where no face was detected, else None.
    """

    box: tuple[float, float, float, float]
    score: float | None
    image: NDArray[np.uint8]
    probabilities: dict[str, float]
    present: list[str]
    detail: str | None = None


class Predictor:
    """A classifier of ordinary photos.

    Attributes:
        model: from aligned faces to probabilities; it computes in `precision` here, after the resize.
        metadata: the data that the classifier was trained on, see `training.data.provenance`.
        recipe: how faces are aligned, as the pipeline did it; all faces of a photo are used.
        attributes: names, in the classifier's order.
        thresholds: by attribute.
        thresholds_from: ``val``, or ``none known`` where all are 0.5.
    """

    def __init__(
        self,
        model: InferenceModel,
        metadata: dict[str, Any],
        recipe: Recipe,
        thresholds: Thresholds,
        central_square: bool,
        precision: Precision = "auto",
        mirrored: bool = False,
    ) -> None:
        self._device, self.precision, self._mirrored = default_device(), precision, mirrored
        self.model = model.to(self._device).eval()
        self.metadata, self.recipe = metadata, recipe
        self.thresholds, self.thresholds_from = thresholds
        self.attributes = list(self.thresholds)
        self._central_square = central_square
        self._template = FACE_TEMPLATE
        if metadata.get("landmarks") is not None:
            self._template = np.array(metadata["landmarks"], np.float64)

    @classmethod
    def load(
        cls,
        path: str | Path,
        thresholds: str | Path | None = None,
        align: Alignment = "auto",
        precision: Precision = "auto",
        mirrored: bool = False,
    ) -> Self:
        """A predictor from ``classifier.pt``.

        Args:
            path: the file that fine-tuning or ``training.export`` wrote.
            thresholds: ``attributes.json`` or ``labels.json``, see `read_thresholds`; None for those in
                the classifier's file, or else in the evaluation beside it.
            align: ``detect`` warps faces to where those that the classifier was trained on have their
                landmarks, ``none`` takes the central square of images that are already aligned, for
                ``auto`` see `Alignment`.
            precision: of the network; ``auto`` is what is fast on this machine.
            mirrored: average the logits of each face and of its mirror image.

        Raises:
            UserError: a file is missing or does not fit.
        """
        path = Path(path)
        file = read_classifier_file(path)
        if file.metadata is None:
            raise UserError(f"{path}: does not say how faces were aligned; fine-tune again")
        recipe = Recipe.model_validate(file.metadata["alignment"])
        central_square = align == "auto" and recipe.align.mode == "none"
        mode = "none" if align == "none" else "detect"
        settings = recipe.align.model_copy(update={"faces": "all", "mode": mode})
        recipe = recipe.model_copy(update={"align": settings})
        if thresholds is None and file.thresholds is not None:
            chosen = file.thresholds, file.thresholds_from
        else:
            given = None if thresholds is None else Path(thresholds)
            chosen = read_thresholds(file.model.attributes, path, given)
        model = InferenceModel(file.model, settings.size)
        return cls(model, file.metadata, recipe, chosen, central_square, precision, mirrored)

    def __call__(self, photo: str | Path) -> list[Face]:
        """All faces of a photo, the largest first.

        Raises:
            Refused: the photo cannot be read or decoded, or shows no face; ``reason`` is a short code.
            UserError: the detector's weights are not available.
        """
        return self.predict(self.read(photo))

    def read(self, photo: str | Path) -> NDArray[np.uint8]:
        """The upright RGB image in a file, uint8 (H, W, 3).

        Raises:
            Refused: see `check_bytes` and `decode_photo`; also ``unreadable`` or ``not-a-file``.
        """
        try:
            if not Path(photo).is_file() and Path(photo).exists():
                raise Refused("not-a-file", "a folder, a pipe, a socket or a device")
            check_bytes(Path(photo).stat().st_size, self.recipe.max_pixels)
            data = Path(photo).read_bytes()
        except Refused:
            raise
        except (OSError, ValueError) as error:
            raise Refused("unreadable", getattr(error, "strerror", None) or str(error)) from error
        return decode_photo(data, self.recipe.max_pixels).image

    def predict(self, image: NDArray[np.uint8]) -> list[Face]:
        """All faces of an upright RGB image, uint8 (H, W, 3), the largest first.

        Raises:
            Refused: ``no-face`` or ``face-outside``.
            UserError: the detector's weights are not available.
        """
        align = self.recipe.align
        with one_thread():
            crops, detail = self._crops(image)
        # The classifier was trained on faces that the pipeline had stored as JPEG.
        faces = [decode_face(encode_face(crop.image)) for crop in crops]
        with torch.inference_mode():
            batch = torch.from_numpy(np.stack(faces)).to(self._device)
            images = self.model.inputs(batch)
            with autocast(self._device, self.precision):
                logits = face_logits(self.model.classifier, images, self._mirrored)
            probabilities = logits.sigmoid().cpu().double().tolist()
        return [
            self._face(crop, image.shape[:2], face, values, detail)
            for crop, face, values in zip(crops, faces, probabilities, strict=True)
        ]

    def _detector(self) -> RetinaFace | None:
        name = self.recipe.align.detector
        return None if self.recipe.align.mode == "none" else load_detector(name, self._weights)

    @cached_property
    def _weights(self) -> Path:
        return find(self.recipe.align.detector, load().weights)

    def _crops(self, image: NDArray[np.uint8]) -> tuple[list[Crop], str | None]:
        """The aligned faces, and the reason why it is the central square if faces had to be detected."""
        align = self.recipe.align
        try:
            return aligned_crops(image, align, self._detector(), self._template), None
        except Refused as refused:
            if self._central_square and refused.reason == "no-face":
                return aligned_crops(image, align, None), CENTRAL_SQUARE
            raise

    def _face(
        self,
        crop: Crop,
        photo: tuple[int, ...],
        face: NDArray[np.uint8],
        values: list[float],
        detail: str | None,
    ) -> Face:
        """The prediction for one crop of a photo of height and width `photo`."""
        if crop.face is None:
            side = min(photo)
            top, left = ((length - side) // 2 for length in photo)
            box, score = (float(left), float(top), float(left + side), float(top + side)), None
        else:
            x0, y0, x1, y1 = (round(float(edge), 2) for edge in crop.face.box)
            box, score = (x0, y0, x1, y1), round(crop.face.score, 6)
        probabilities = {name: round(value, 6) for name, value in zip(self.attributes, values, strict=True)}
        present = [name for name, value in probabilities.items() if value >= self.thresholds[name]]
        return Face(box, score, face, probabilities, present, detail)
