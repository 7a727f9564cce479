"""Predictions of labelled faces by fits that left these out, and the audit of the labels by them.

Labels are probably wrong by the terms of confident learning (Northcutt, Jiang and Chuang, "Confident
Learning: Estimating Uncertainty in Dataset Labels", JAIR 2021): the self-confidence of a label is the
probability that an out-of-sample prediction gives it. A label is an issue if the other value is at least as
probable as it is on average where it is the label.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from common import manifest
from common.config import Config
from common.errors import UserError
from common.files import replacing
from common.layout import SPLITS, Layout
from common.progress import progress
from training.data.samples import read_samples
from training.label.page import write_page
from training.methods.method import regions_of
from training.methods.region_probe import StandardisedFeatures, fit_on_features, read_standardised
from training.models.probe import Regions

Floats = NDArray[np.float64]
Labels = NDArray[np.int8]  # (N, A), 0 or 1, -1 where unknown

FEWEST: Final = 20  # With fewer labelled faces, predictions of them say too little
FOLDS: Final = 10
FEWER_FOLDS: Final = 5
FEW: Final = 500  # Beyond so many labelled faces there are `FEWER_FOLDS`

TABLE: Final = "label_issues.parquet"
PAGE: Final = "label_issues.html"
NEAR: Final = 0.9  # Cosine of the standardised features of two whole faces from which they count as one photo
BATCH: Final = 1000  # Faces that are compared with all others at a time

# Of `TABLE`. ``issue`` is ``contradicted`` by predictions, ``disagreeing`` with other photos of the person,
# or ``near_duplicate`` of the sample ``other`` in another split.
TEXTS: Final = ("issue", "key", "source", "split", "identity", "attribute")
NUMBERS: Final = {"label": pa.int8(), "self_confidence": pa.float64(), "label_quality": pa.float64()}
SCHEMA: Final = pa.schema(
    [*((name, pa.string()) for name in TEXTS), *NUMBERS.items(), ("other", pa.string())]
)

# An attribute does not change if labels of one person's photos agree so well, by Cohen's kappa.
AGREEMENT: Final = 0.8
# Of the regressions on other labels: C, the weight of the cross-entropy against half the squared norm.
STRENGTH: Final = 0.1
# Of 0, 0.25, 0.5, 0.75 and 1 this gave given labels of 420 and of 8,396 faces the least cross-entropy.
OTHERS: Final = 0.25


def audit(config: Config, layout: Layout, output: Path, count: int) -> None:
    """Write `TABLE`, the issues of all labels, the lowest quality first, and `PAGE` with the first `count`.

    Raises:
        UserError: too few faces have labels, or the shards hold no features.
    """
    faces = read_samples(layout, SPLITS, config.stream.folder).labelled()
    if len(faces) < FEWEST:
        raise UserError(f"{layout.shards}: {len(faces)} faces have labels; an audit needs {FEWEST} or more")
    features, labels = read_standardised(faces, faces, config.stream), faces.attributes
    names = faces.attribute_names
    _, logits = left_out_logits(features, labels, names, faces.identities, regions_of(config.finetune))
    confidence = self_confidence(logits, labels)
    quality = label_quality(logits, labels, faces.identities)
    listed = {row["key"]: row for row in manifest.read(layout.samples, ["key", "source", "split"]).rows()}

    def row(issue: str, face: int, **more: Any) -> dict[str, Any]:
        return {"issue": issue, "identity": faces.identities[face], **listed[faces.keys[face]], **more}

    rows, pairs = [], []
    wrong = {"contradicted": contradicted(confidence, labels)}
    wrong["disagreeing"] = disagreeing(labels, faces.identities)
    for flat in np.argsort(np.where(np.isnan(quality), np.inf, quality), axis=None, kind="stable").tolist():
        face, column = divmod(flat, len(names))
        kinds = [issue for issue, issues in wrong.items() if issues[face, column]]
        pairs += [(face, column)] if kinds else []
        for issue in kinds:
            about = {"attribute": names[column], "label": int(labels[face, column])}
            scores = {"self_confidence": confidence[face, column], "label_quality": quality[face, column]}
            rows.append(row(issue, face, **about, **scores))
    duplicates = near_duplicates(features, np.array([listed[key]["split"] for key in faces.keys]))
    rows += [row("near_duplicate", face, other=faces.keys[other]) for face, other in duplicates]
    with replacing(output / TABLE) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), temporary, compression="zstd")
    pairs = pairs[:count]
    suspects = {face: number for number, face in enumerate(dict.fromkeys(face for face, _ in pairs))}
    chosen = np.array(list(suspects), np.int64)
    headline, on_page = f"{len(pairs):,} labels that may be wrong", [(suspects[a], b) for a, b in pairs]
    guesses = torch.from_numpy(logits[chosen]).sigmoid().numpy()
    write_page(output / PAGE, layout, faces.take(chosen), config.stream, headline, guesses, on_page)
    contradictions, disagreements = (int(issues.sum()) for issues in wrong.values())
    print(
        f"audit: of {int((labels >= 0).sum()):,} labels of {len(faces):,} faces, {contradictions:,} "
        f"contradict predictions, {disagreements:,} other photos of the person; {len(duplicates):,} "
        f"near-duplicates across splits; {output / TABLE}"
    )
    if pairs:
        print(f"audit: check the {len(pairs):,} most suspected labels on {output / PAGE}")


def near_duplicates(features: StandardisedFeatures, splits: NDArray[np.str_]) -> list[tuple[int, int]]:
    """Pairs of faces in two splits that are nearly the same picture, the smaller position first."""
    whole = [features.values[:, start:end] for _, region, start, end in features.parts if region < 0]
    values = np.hstack(whole).astype(np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True).clip(1e-9)
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(values), BATCH):
        near = values[start : start + BATCH] @ values.T >= NEAR
        near &= splits[start : start + BATCH, None] != splits
        pairs += [(start + a, b) for a, b in np.argwhere(near).tolist() if start + a < b]
    return pairs


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


def left_out_logits(
    features: StandardisedFeatures,
    labels: NDArray[np.int8],
    names: tuple[str, ...],
    identities: Sequence[str | None],
    regions: Regions,
    most: int | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Logits of labelled faces that a fit left out, with all photos of the same person.

    Args:
        features, labels, names, regions: see `fit_on_features`.
        identities: of the N faces, None where unknown.
        most: leave out only so many folds that they hold so many faces; None: all.

    Returns:
        Positions of these faces, ascending, int64 (L,), and their logits, float64 (L, A).
    """
    fold = folds_of(identities)
    sizes = np.bincount(fold).cumsum()
    used = len(sizes) if most is None else min(int((sizes < most).sum()) + 1, len(sizes))
    logits = np.zeros(labels.shape)
    bar = progress("left out", used, "folds")
    for each in range(used):
        rest, held = np.flatnonzero(fold != each), np.flatnonzero(fold == each)
        kept = replace(features, values=features.values[rest])
        probe, _ = fit_on_features(kept, labels[rest], names, regions)
        logits[held] = probe.logits_of(features.values[held].astype(np.float64))
        bar.update(1)
    bar.close()
    seen = np.flatnonzero(fold < used)
    return seen, logits[seen]


def folds_of(identities: Sequence[str | None]) -> NDArray[np.int64]:
    """The fold of each face, int64 (N,), 0 to the number of folds - 1: equal for all faces of a person.

    Args:
        identities: of two faces or more; a face of unknown identity is a person of its own.
    """
    names = [f"\0{i}" if identity is None else identity for i, identity in enumerate(identities)]
    people, person, faces = np.unique(np.array(names, np.str_), return_inverse=True, return_counts=True)
    count = min(FOLDS if len(names) <= FEW else FEWER_FOLDS, len(people))
    order = np.random.default_rng(0).permutation(len(people))
    fold_of_person, sizes = np.zeros(len(people), np.int64), np.zeros(count)
    for each in order[np.argsort(-faces[order], kind="stable")]:  # the largest first, to the smallest fold
        fold_of_person[each] = smallest = sizes.argmin()
        sizes[smallest] += faces[each]
    return fold_of_person[person]
