"""From photos and a table of labels to a classifier."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UserError

if TYPE_CHECKING:
    from training.predict.predictor import Predictor


def fit(
    photos: str | Path,
    labels: str | Path | None = None,
    output: str | Path = "fit",
    settings: Sequence[str] = (),
) -> "Predictor":
    """Parse photos, fit the region probe to their labels, and return a predictor of other photos.

    ::

        from training.fit import fit

        predictor = fit("photos/", "labels.csv")
        for face in predictor("photo.jpg"):
            print(face.present)

    For the arguments and errors see `training.fit.fit.fit_photos`; without any label there is nothing to fit.

    Raises:
        UserError: no photo has a label, or an input cannot be used.
        SystemExit: parsing failed, and has said why.
    """
    from training.fit.fit import fit_photos
    from training.predict.predictor import Predictor

    labels = None if labels is None else Path(labels)
    classifier = fit_photos(str(photos), labels, Path(output), (), settings)
    if classifier is None:
        raise UserError(f"{photos}: no photo has a label, so there is nothing to fit")
    return Predictor(classifier)
