"""Which predictions are unsure: what a stated error leaves open."""

from typing import Self

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from training.models.classifier import Classifier

Floats = NDArray[np.float64]


class Sureness:
    """Predictions that are sure enough for an error, by faces that their classifier did not learn from.

    Of each attribute's faces, the largest set of highest probabilities counts as present
    in which (wrong + 1) / (faces + 1) is at most the error, the correction of conformal risk control for a
    finite sample (Angelopoulos et al., ICLR 2024); the lowest ones count as absent by the same rule. So each
    kind of sure predictions keeps the error.

    Attributes:
        present, absent: float64 (A,), probabilities at or above, and at or below which an attribute counts as
            such; infinite where nothing keeps the error.

    Args:
        probabilities: float64 (N, A), of these faces.
        labels: int8 (N, A), 0 or 1, -1 where unknown.
        error: share of the sure predictions that may be wrong, above 0 and below one half.
    """

    def __init__(self, probabilities: Floats, labels: NDArray[np.int8], error: float) -> None:
        self.present, self.absent = (np.full(labels.shape[1], value) for value in (np.inf, -np.inf))
        for column, (each, label) in enumerate(zip(probabilities.T, labels.T, strict=True)):
            upper, lower = (label >= 0) & (each >= 0.5), (label >= 0) & (each < 0.5)
            self.present[column] = _cut(each[upper], label[upper] == 0, error)
            self.absent[column] = 1 - _cut(1 - each[lower], label[lower] == 1, error)

    @classmethod
    def of(cls, classifier: Classifier, error: float) -> Self:
        """That of a classifier, by its `left_out` predictions.

        Raises:
            UserError: the classifier has none.
        """
        if classifier.left_out is None:
            raise UserError(
                "this classifier does not know its error; one that `python -m training.fit` makes of enough "
                "labels does"
            )
        probabilities = classifier.left_out["logits"].double().sigmoid().numpy()
        return cls(probabilities, classifier.left_out["labels"].numpy(), error)

    def decide(self, probabilities: Floats) -> NDArray[np.int8]:
        """1 for present, 0 for absent, -1 for unsure, int8 (N, A), of probabilities, float64 (N, A)."""
        return np.where(
            probabilities >= self.present, 1, np.where(probabilities <= self.absent, 0, -1)
        ).astype(np.int8)


def _cut(probabilities: Floats, wrong: NDArray[np.bool_], error: float) -> float:
    """The least probability of the largest set that keeps the error; infinity if none does."""
    order = np.argsort(-probabilities, kind="stable")
    last = np.append(np.diff(probabilities[order]) != 0, True)[: len(order)]  # equal ones go together
    risk = (wrong[order].cumsum() + 1) / (np.arange(len(order)) + 2)
    kept = np.flatnonzero((risk <= error) & last)
    return float(probabilities[order[kept[-1]]]) if len(kept) else np.inf
