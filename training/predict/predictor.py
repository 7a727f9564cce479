"""Attributes of the faces in photos, from a classifier's file alone.

::

    from training.predict import Predictor

    predictor = Predictor.load("classifier.pt")
    for face in predictor("photo.jpg"):
        print(face.box, face.present, face.probabilities["Smiling"])
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray

from common.alignment.crops import Crop, aligned_crops, crops_of_each
from common.alignment.detector import FIRST_SIDE, Picture, load_detector, one_thread
from common.alignment.recipe import Recipe
from common.alignment.warp import FACE_TEMPLATE
from common.cell_counts import GRID, cell_class_counts
from common.config import Config, load
from common.errors import UserError
from common.hardware import hardware
from common.images import check_bytes, decode_photo
from common.members import decode_face, encode_face
from common.photo import Photo, Refused
from common.pipeline_config import Precision
from common.weights import find
from training.data.loader import Batch, batch_of
from training.evaluate.thresholds import DEFAULT, Sureness, read_thresholds
from training.models.classifier import Classifier, load_classifier

if TYPE_CHECKING:
    from facexlib.detection.retinaface import RetinaFace

    from common.parsing.parser import FaceParser, ParserFile

# ``detect`` warps faces to where those that the classifier was trained on have their landmarks. ``none``
# takes the central square of images that are already aligned. ``auto`` detects, but a classifier that was
# trained on images that were already aligned predicts from the central square of a photo without a face.
Alignment = Literal["auto", "detect", "none"]

CENTRAL_SQUARE: Final = "no face was detected; this is the photo's central square"


@dataclass(frozen=True)
class Face:
    """A face of a photo and its predicted attributes."""

    box: tuple[float, float, float, float]  # left, top, right, bottom in pixels of the upright photo
    score: float | None  # the detector's score, 0 to 1; None where no detector ran
    image: NDArray[np.uint8]  # uint8 RGB (S, S, 3), the aligned face as the classifier saw it
    probabilities: dict[str, float]  # 0 to 1, by attribute
    present: list[str]  # attributes whose probability reaches their threshold, 0.5 by default
    detail: str | None = None  # `CENTRAL_SQUARE` where no face was detected
    # attributes that the predictor's `sureness` leaves open; they are not present
    unsure: list[str] = field(default_factory=list)


class Predictor:
    """A classifier of ordinary photos.

    Attributes:
        classifier: of any kind.
        thresholds: probability at or above which an attribute is present, by name.
        sureness: what is sure enough for a stated error; None: every prediction.
        recipe: how faces are aligned, as the pipeline did it; all faces of a photo are used.

    Args:
        classifier, thresholds: as above; None: 0.5 for all.
        align: see `Alignment`.
        config: files of weights, and of parsers of one's own; None: the settings in ``params.yaml``.

    Raises:
        UserError: the classifier does not say how its faces were aligned.
    """

    def __init__(
        self,
        classifier: Classifier,
        thresholds: Mapping[str, float] | None = None,
        align: Alignment = "auto",
        config: Config | None = None,
    ) -> None:
        if "alignment" not in classifier.metadata:
            raise UserError("the classifier does not say how faces were aligned; fine-tune again")
        recipe = Recipe.model_validate(classifier.metadata["alignment"])
        mode = "none" if align == "none" else "detect"
        settings = recipe.align.model_copy(update={"faces": "all", "mode": mode})
        self.classifier, self._config = classifier, config or load()
        self.sureness: Sureness | None = None
        self.thresholds = dict(thresholds or dict.fromkeys(classifier.attributes, DEFAULT))
        self.recipe = recipe.model_copy(update={"align": settings})
        self._central_square = align == "auto" and recipe.align.mode == "none"
        landmarks = classifier.metadata.get("landmarks")
        self._template = FACE_TEMPLATE if landmarks is None else np.array(landmarks, np.float64)

    @classmethod
    def load(
        cls,
        path: str | Path,
        thresholds: str | Path | None = None,
        align: Alignment = "auto",
        precision: Precision = "auto",
        mirrored: bool = False,
        config: Config | None = None,
    ) -> Self:
        """A predictor from a file.

        Args:
            path: ``classifier.pt``, or the folder or ONNX file that ``training.export`` wrote.
            thresholds: a file with thresholds, see `read_thresholds`; None: 0.5 for all attributes.
            align, config: see `Predictor`.
            precision: of the network; ``auto`` is what is fast on this machine.
            mirrored: average the logits of each face and of its mirror image, if a network computes them.

        Raises:
            UserError: a file is missing or does not fit.
        """
        classifier = load_classifier(Path(path))
        cuts = None if thresholds is None else read_thresholds(Path(thresholds), classifier)
        classifier.configure(hardware().device, precision, mirrored)
        return cls(classifier, cuts, align, config)

    def __call__(self, photo: str | Path) -> list[Face]:
        """All faces of a photo, the largest first.

        Raises:
            Refused: the photo cannot be read or decoded, or shows no face; ``reason`` is a short code.
            UserError: the weights of the detector or the parser are not available.
        """
        return self.predict(self.read(photo))

    def read(self, photo: str | Path) -> Photo:
        """The photo in a file, decoded as finely as faces have to be detected.

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
        side = None if self.recipe.align.mode == "none" else FIRST_SIDE
        return decode_photo(data, self.recipe.max_pixels, side)

    def predict(self, image: Picture) -> list[Face]:
        """All faces of an upright RGB image, uint8 (H, W, 3), or of a photo, the largest first.

        Raises:
            Refused: ``no-face`` or ``face-outside``.
            UserError: the weights of the detector or the parser are not available.
        """
        (faces,) = self.predict_each([image])
        if isinstance(faces, Refused):
            raise faces
        return faces

    def predict_each(self, images: Sequence[Picture]) -> list[list[Face] | Refused]:
        """What `predict` returns or raises for each of several images, computed together."""
        with one_thread():
            aligned = crops_of_each(images, self.recipe.align, self._detector, self._template)
            crops = [self._or_square(image, each) for image, each in zip(images, aligned, strict=True)]
        # The classifier was trained on faces that the pipeline had stored as JPEG.
        kept = [crop for each in crops if not isinstance(each, Refused) for crop in each]
        stored = [decode_face(encode_face(crop.image)) for crop in kept]
        values = zip(stored, self.probabilities(np.stack(stored)) if stored else (), strict=True)
        return [
            each if isinstance(each, Refused) else [self._face(crop, image, *next(values)) for crop in each]
            for image, each in zip(images, crops, strict=True)
        ]

    def batch(self, faces: NDArray[np.uint8], members: frozenset[str]) -> Batch:
        """Some members of samples of aligned faces, uint8 RGB (B, S, S, 3), which are parsed if need be."""
        known: dict[str, NDArray[Any]] = {"jpg": faces}
        if members - known.keys():
            from common.parsing.parser import faces_per_pass

            cuts = range(faces_per_pass(), len(faces), faces_per_pass())
            with one_thread():
                parts = [self._parser(each) for each in np.split(faces, cuts)]
            known["mask.png"] = np.concatenate([mask for mask, _, _ in parts])
            known["parts.npy"] = np.stack([cell_class_counts(mask, GRID) for mask in known["mask.png"]])
            for name in parts[0][2]:
                stored = np.concatenate([features[name] for *_, features in parts])
                known[name] = stored.view(np.float16).reshape(len(faces), -1)
        return batch_of({name: known[name] for name in members}, torch.arange(len(faces)))

    @cached_property
    def _detector(self) -> "RetinaFace | None":
        name, weights = self.recipe.align.detector, self._config.weights
        return None if self.recipe.align.mode == "none" else load_detector(name, find(name, weights))

    @cached_property
    def _parser(self) -> "FaceParser":
        from common.parsing.parser import load_parser  # classifiers of pictures need none

        return load_parser(find_parser_of(self.classifier.metadata, self._config))

    def _or_square(self, image: Picture, crops: list[Crop] | Refused) -> list[Crop] | Refused:
        if isinstance(crops, Refused) and self._central_square and crops.reason == "no-face":
            return aligned_crops(image, self.recipe.align, None)
        return crops

    def probabilities(self, faces: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Probabilities, float64 (B, A), of aligned faces, uint8 RGB (B, S, S, 3)."""
        batch = self.batch(faces, self.classifier.members)
        if self.classifier.network is not None:
            # Unlike uint8, float images are not rounded when they are resized, which graphs cannot do.
            batch = replace(batch, images=batch.images.float())
        return torch.from_numpy(self.classifier.logits(batch)).double().sigmoid().numpy()

    def _face(self, crop: Crop, photo: Picture, face: NDArray[np.uint8], values: NDArray[np.float64]) -> Face:
        """The prediction for one crop of a photo."""
        if crop.face is None:
            side = min(photo.shape[:2])
            top, left = ((length - side) // 2 for length in photo.shape[:2])
            edges, score = [left, top, left + side, top + side], None
            detail = None if self.recipe.align.mode == "none" else CENTRAL_SQUARE
        else:
            edges, score, detail = crop.face.box.tolist(), round(crop.face.score, 6), None
        x0, y0, x1, y1 = (round(float(edge), 2) for edge in edges)
        names = self.classifier.attributes
        probabilities = dict(zip(names, values.tolist(), strict=True))
        cuts = [self.thresholds[name] for name in names]
        decided = self.sureness.decide(values) if self.sureness else (values >= cuts).astype(np.int8)
        present, unsure = ([names[i] for i in np.flatnonzero(decided == kind)] for kind in (1, -1))
        return Face((x0, y0, x1, y1), score, face, probabilities, present, detail, unsure)


def find_parser_of(metadata: Mapping[str, Any], config: Config) -> "ParserFile":
    """The parser that made the masks and features of the faces that a classifier was fitted on.

    It computes in int8 or float32 if those did; of 16-bit formats it takes this machine's own.

    Args:
        metadata: of the classifier, whose ``parsing`` `training.data.provenance.parsing` made.
        config: names files of one's own in ``weights.parser`` and ``parse.features_from``, where they do not
            lie where they lay when the classifier was fitted; and the cache of weights.

    Raises:
        UserError: the classifier does not say which, or its files are missing or others.
    """
    from common.parsing.class_map import NAMED  # classifiers of pictures need no parser
    from common.parsing.find_parser import find_parser

    parsing = metadata.get("parsing")
    if parsing is None:
        raise UserError(
            "the classifier does not say how faces were parsed; fit it again, or predict faces in shards "
            "with --shards"
        )
    kind, networks = parsing["parser"], parsing["networks"]
    files = {name: name for name in NAMED}
    files |= {Path(file).stem: file for file in (*parsing["features_from"], *config.parse.features_from)}
    if unknown := [name for name in networks if name not in files]:
        raise UserError(
            f"the classifier reads features of {', '.join(unknown)}; list files with these names, besides "
            "their endings, in parse.features_from"
        )
    formats = {each.rpartition(", ")[2] for each in parsing["numerics"]}
    file = config.weights.parser
    if kind in ("onnx", "torchscript") and (file is None or config.parse.parser != kind):
        file = parsing["file"]
    precision = formats.pop() if formats in ({"int8"}, {"float32"}) else "auto"
    update = {"parser": kind, "size": parsing["size"], "precision": precision}
    settings = config.parse.model_copy(update={**update, "features_from": [files[name] for name in networks]})
    here = find_parser(settings, config.weights.model_copy(update={"parser": file}))
    wanted = [(here.path, here.sha256, parsing["sha256"], "weights.parser")]
    for each in here.embedders:
        wanted.append((each.path, each.sha256, networks[each.name], "parse.features_from"))
    for path, sha256, expected, setting in wanted:
        if sha256 != expected:
            raise UserError(
                f"{path}: SHA-256 is {sha256}, but the classifier reads what the file with {expected} "
                f"computes; name that file as {setting}"
            )
    return here
