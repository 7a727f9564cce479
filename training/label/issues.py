"""Labels that are probably wrong, by the terms of confident learning (Northcutt, Jiang and Chuang, "Confident
Learning: Estimating Uncertainty in Dataset Labels", JAIR 2021).

The self-confidence of a label is the probability that an out-of-sample prediction gives it. A label is an
issue if the other value is at least as probable as it is on average where it is the label.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from training.label.left_out import folds_of

Floats = NDArray[np.float64]
Labels = NDArray[np.int8]
"""(N, A), 0 or 1, -1 where unknown."""

AGREEMENT: Final = 0.8
"""An attribute does not change if labels of one person's photos agree so well, by Cohen's kappa."""

STRENGTH: Final = 0.1
"""Of the regressions on other labels: C, the weight of the cross-entropy against half the squared norm."""

OTHERS: Final = 0.25
"""Of 0, 0.25, 0.5, 0.75 and 1 this gave given labels of 420 and of 8,396 faces the least cross-entropy."""


def self_confidence(logits: Floats, labels: Labels) -> Floats:
    """The probability of each label by predictions that were left out, (N, A), NaN where it is unknown."""
    with np.errstate(over="ignore"):
        return np.where(labels < 0, np.nan, 1 / (1 + np.exp(np.where(labels == 1, -logits, logits))))


def label_quality(logits: Floats, labels: Labels, identities: Sequence[str | None]) -> Floats:
    """A score of each label, (N, A), 0 to 1, NaN where it is unknown; the lowest are most probably wrong.

    Attributes go together, so a label that also contradicts the other labels of its face is wrong more often.
    A logistic regression per attribute predicts it from them and from the left-out predictions; its log-odds
    have the share `OTHERS` of the score's, the self-confidence the rest.

    Args:
        logits: float64 (N, A), of predictions that were left out.
        labels: of the same faces.
        identities: of the faces, None where unknown: a regression sees no other photo of the same person.
    """
    fold = folds_of(identities)
    others = np.where(labels < 0, 0.0, 2.0 * labels - 1.0)
    scaled = logits / logits.std(axis=0).clip(1e-6)
    from_others = logits.copy()
    for column in range(labels.shape[1]):
        inputs = np.hstack([scaled, np.delete(others, column, axis=1)])
        known = labels[:, column] >= 0
        for each in range(int(fold.max()) + 1):
            rest, held = known & (fold != each), known & (fold == each)
            if held.any() and len(np.unique(labels[rest, column])) == 2:
                model = LogisticRegression(C=STRENGTH, max_iter=1000).fit(inputs[rest], labels[rest, column])
                from_others[held, column] = model.decision_function(inputs[held])
    return self_confidence((1 - OTHERS) * logits + OTHERS * from_others, labels)


def contradicted(confidence: Floats, labels: Labels) -> NDArray[np.bool_]:
    """Which labels are issues, bool (N, A), by their self-confidence."""
    issues = np.zeros(labels.shape, bool)
    for value in (0, 1):
        given, other = labels == value, labels == 1 - value
        for column in np.flatnonzero(given.any(axis=0) & other.any(axis=0)):
            average = confidence[other[:, column], column].mean()
            issues[:, column] |= given[:, column] & (1 - confidence[:, column] >= average)
    return issues


def disagreeing(labels: Labels, identities: Sequence[str | None]) -> NDArray[np.bool_]:
    """Which labels differ from most of the same person's other labels, bool (N, A), of attributes that do not
    change; of two photos that disagree, both.
    """
    issues = np.zeros(labels.shape, bool)
    people, person = np.unique([name or "" for name in identities], return_inverse=True)
    for column in range(labels.shape[1]):
        known = (labels[:, column] >= 0) & (people[person] != "")
        count = np.bincount(person[known], minlength=len(people))
        positive = np.bincount(person[known], labels[known, column], len(people))
        share = positive.sum() / max(count.sum(), 1)
        pairs, expected = (count * (count - 1) / 2).sum(), 2 * share * (1 - share)
        differing = (positive * (count - positive)).sum()
        if pairs and expected and differing / pairs <= (1 - AGREEMENT) * expected:
            same = np.where(labels[:, column] == 1, positive[person], (count - positive)[person])
            issues[:, column] = known & (2 * same <= count[person])
    return issues
