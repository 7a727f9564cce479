"""``python -m benchmarks.labels``: what audits find, what suggestions save, and whether stated errors hold.

On labelled shards, whose train labels are hidden or flipped; scores are of the test split.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from benchmarks.processes import run
from common import command
from common.layout import Layout
from common.sampling import evenly_spaced
from training.data.samples import Samples, read_samples
from training.engine.objective import mean_average_precision
from training.evaluate.metrics import METRICS, score
from training.evaluate.thresholds import Sureness
from training.label.audit import contradicted, folds_of, label_quality, left_out_logits, self_confidence
from training.label.page import MOST
from training.methods.block_weights import prior_weights
from training.methods.calibration import use_label_thresholds
from training.methods.method import regions_of
from training.methods.region_probe import StandardisedFeatures, fit_on_features, read_standardised
from training.models.probe import Kernels, RegionProbe, Regions
from training.models.stored_features import read_features

Floats = NDArray[np.float64]
Labels = NDArray[np.int8]
Faces = NDArray[np.int64]

FLIPPED: Final = 0.05
STRENGTHS: Final = (1e-4, 1e-3, 1e-2)
"""Of the plain logistic regression, of which the best is reported."""

STEPS: Final = (42, 84, 126, 252, 420)
MORE: Final = (504, 588)
"""Further steps of random draws, for the labels that they need to reach the others."""

NOISE: Final = 1.0
"""Variance of a label beside that of the kernel, which is 1 for a face with itself."""

ERRORS: Final = (0.02, 0.05, 0.1)


@dataclass(frozen=True)
class Data:
    """The faces of train with their labels, and the features and labels of test."""

    train: Samples
    features: StandardisedFeatures
    labels: Labels
    test: Floats
    truth: Labels
    regions: Regions

    def fit(self, faces: Faces, labels: Labels) -> RegionProbe:
        """A region probe of some train faces, with these labels."""
        own = replace(self.features, values=self.features.values[faces])
        probe, _ = fit_on_features(own, labels, self.train.attribute_names, self.regions)
        use_label_thresholds(probe, labels)
        return probe

    def left_out(self, faces: Faces, labels: Labels) -> Floats:
        """Logits of train faces that fits left out."""
        own = replace(self.features, values=self.features.values[faces])
        people = self.people(faces)
        return left_out_logits(own, labels, self.train.attribute_names, people, self.regions)[1]

    def people(self, faces: Faces) -> list[str | None]:
        """Identities of train faces."""
        return [self.train.identities[face] for face in faces.tolist()]

    def scores(self, probe: RegionProbe) -> str:
        """Mean average precision and balanced accuracy on test, in percent."""
        chances = _probabilities(probe.logits_of(self.test))
        cuts = list((probe.thresholds or {}).values())
        means = np.nanmean(score(self.truth, chances, cuts, np.ones((1, len(chances))))[0], axis=0)
        values = dict(zip(METRICS, means, strict=True))
        return f"{100 * values['average_precision']:.1f} / {100 * values['balanced_accuracy']:.1f}"


def main() -> None:
    """Read the command line and measure the parts that it names."""
    parser = command.parser(__doc__ or "", "  python -m benchmarks.labels --shards OUT", "labelled shards")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument("--faces", type=int, nargs="+", default=[420], help="labelled faces (default: 420)")
    parser.add_argument("--seeds", type=int, default=3, help="draws of faces and flips (default: 3)")
    parser.add_argument("--without-networks", action="store_true", help="leave parse.features_from out")
    options = parser.parse_args()
    config = command.config_from(options)
    layout, stream = Layout.at(options.shards), config.stream
    train, test = (read_samples(layout, (split,)).labelled() for split in ("train", "test"))
    if options.without_networks:
        for samples in (train, test):
            samples.extents.pop("embedding.npy", None)
    features = read_standardised(train, train, stream)
    of_test = (read_features(test, features.blocks, stream) - features.mean) * features.scale
    regions = regions_of(config.finetune)
    data = Data(train, features, train.attributes, of_test, test.attributes, regions)
    for part in options.parts:
        for seed in range(options.seeds):
            for line in PARTS[part](data, seed, options.faces):
                print(f"{part}, seed {seed}: {line}", flush=True)


def _probabilities(logits: Floats) -> Floats:
    return 1 / (1 + np.exp(-logits))


def _drawn(data: Data, seed: int, count: int) -> Faces:
    return np.random.default_rng(seed).permutation(len(data.labels))[:count]


def audit(data: Data, seed: int, counts: list[int]) -> Iterator[str]:
    """Precision among as many labels as were flipped, and scores of fits with, without, and before flips."""
    for count in counts:
        faces = _drawn(data, seed, count)
        truth = data.labels[faces]
        flipped = (np.random.default_rng(seed).random(truth.shape) < FLIPPED) & (truth >= 0)
        labels = np.where(flipped, 1 - truth, truth).astype(np.int8)
        logits, people = data.left_out(faces, labels), data.people(faces)
        confidence, quality = self_confidence(logits, labels), label_quality(logits, labels, people)
        plain = max(
            _precision(self_confidence(each, labels), flipped) for each in _plain(data, faces, labels)
        )
        by = {"quality": _precision(quality, flipped), "probability": _precision(confidence, flipped)}
        texts = [
            f"{name} {100 * value:.1f} %" for name, value in {**by, "logistic regression": plain}.items()
        ]
        issues = contradicted(confidence, labels)
        found = f"{issues.sum()} issues, {100 * flipped[issues].mean():.1f} % of them flipped"
        yield f"{count} faces, {flipped.sum()} flips: {', '.join(texts)}; {found}"
        lowest = _lowest(quality, int(flipped.sum()))
        given = {"clean": truth, "flipped": labels, "lowest corrected": np.where(lowest, truth, labels)}
        given |= {
            "without issues": np.where(issues, -1, labels),
            "without lowest": np.where(lowest, -1, labels),
        }
        fits = [
            f"{name} {data.scores(data.fit(faces, each.astype(np.int8)))}" for name, each in given.items()
        ]
        yield f"{count} faces, mAP / balanced accuracy: {', '.join(fits)}"


def _lowest(scores: Floats, count: int) -> NDArray[np.bool_]:
    chosen = np.zeros(scores.size, bool)
    chosen[np.argsort(np.where(np.isnan(scores), np.inf, scores), axis=None, kind="stable")[:count]] = True
    return chosen.reshape(scores.shape)


def _precision(scores: Floats, flipped: NDArray[np.bool_]) -> float:
    return float(flipped[_lowest(scores, int(flipped.sum()))].mean())


def _plain(data: Data, faces: Faces, labels: Labels) -> list[Floats]:
    """Left-out logits of a logistic regression per attribute on all features, for each of `STRENGTHS`."""
    values, fold = data.features.values[faces], folds_of(data.people(faces))
    logits = np.zeros((len(STRENGTHS), *labels.shape))
    for each in range(int(fold.max()) + 1):
        rest, held = fold != each, fold == each
        for column, number in np.ndindex(labels.shape[1], len(STRENGTHS)):
            known = rest & (labels[:, column] >= 0)
            if len(np.unique(labels[known, column])) == 2:
                model = LogisticRegression(C=STRENGTHS[number], max_iter=200)
                model.fit(values[known], labels[known, column])
                logits[number, held, column] = model.decision_function(values[held])
    return list(logits)


def suggest(data: Data, seed: int, _: list[int]) -> Iterator[str]:
    """Mean average precision with `STEPS` labels that each way chose, from the same first ones."""
    ways = {"typical": _typical, "uncertain": _uncertain, "random": partial(_random, seed)}
    for name, way in ways.items():
        faces, scores = _drawn(data, seed, STEPS[0]), []
        for step in (*STEPS, *(MORE if name == "random" else ())):
            if step > len(faces):
                faces = np.concatenate([faces, way(data, faces, step - len(faces))])
            probe = data.fit(faces, data.labels[faces])
            value = mean_average_precision(data.truth, probe.logits_of(data.test)) or 0.0
            scores.append(f"{step}: {100 * value:.1f}")
        yield f"{name} {', '.join(scores)}"


def _free(data: Data, faces: Faces) -> Faces:
    free = np.setdiff1d(np.arange(len(data.labels)), faces)
    return free[evenly_spaced(MOST, len(free))]


def _typical(data: Data, faces: Faces, count: int) -> Faces:
    """The faces that reduce the variance of all predictions most, nobody twice.

    Transductive experimental design (Yu, Bi and Tresp, ICML 2006) with the kernel of the region probe.
    """
    free = _free(data, faces)
    values = torch.from_numpy(data.features.values[np.concatenate([faces, free])])
    weights, columns = prior_weights(data.features.parts, [None]), [part[2:] for part in data.features.parts]
    similarity = Kernels(values, values, columns, weights)(0).numpy()
    labelled, people = len(faces), data.people(free)
    known = similarity[:, :labelled]
    covariance = similarity - known @ np.linalg.solve(known[:labelled] + NOISE * np.eye(labelled), known.T)
    open_, order = np.ones(len(people), bool), list[int]()
    while len(order) < count and open_.any():
        of_free = covariance[:, labelled:]
        gains = np.square(of_free).sum(axis=0) / (of_free[labelled:].diagonal() + NOISE)
        best = int(np.where(open_, gains, -1.0).argmax())
        column = of_free[:, best].copy()
        covariance -= np.outer(column, column / (column[labelled + best] + NOISE))
        order.append(best)
        open_[best] = False
        if people[best] is not None:
            open_ &= np.array([person != people[best] for person in people])
    return free[order]


def _uncertain(data: Data, faces: Faces, count: int) -> Faces:
    """The faces with the largest sum of entropies, nobody twice."""
    free = _free(data, faces)
    chances = _probabilities(
        data.fit(faces, data.labels[faces]).logits_of(data.features.values[free].astype(float))
    )
    bounded = chances.clip(1e-9, 1 - 1e-9)
    entropy = -(bounded * np.log(bounded) + (1 - bounded) * np.log(1 - bounded)).sum(axis=1)
    people: dict[str | None, int] = {}
    for face in free[np.argsort(-entropy, kind="stable")].tolist():
        people.setdefault(data.train.identities[face] or f"\0{face}", face)
    return np.array(list(people.values())[:count])


def _random(seed: int, data: Data, faces: Faces, count: int) -> Faces:
    return _drawn(data, seed, len(faces) + count)[len(faces) :]


def unsure(data: Data, seed: int, counts: list[int]) -> Iterator[str]:
    """Share of the test predictions that are sure at each of `ERRORS`, and how many of them are wrong."""
    for count in counts:
        faces = _drawn(data, seed, count)
        labels = data.labels[faces]
        probe, logits = data.fit(faces, labels), data.left_out(faces, labels)
        probe.left_out = {"logits": torch.from_numpy(logits).float(), "labels": torch.from_numpy(labels)}
        chances, known = _probabilities(probe.logits_of(data.test)), data.truth >= 0
        for error in ERRORS:
            decided = Sureness.of(probe, error).decide(chances)
            sure = known & (decided >= 0)
            wrong = sure & (decided != data.truth)
            by_attribute = wrong.sum(0)[sure.any(0)] / sure.sum(0)[sure.any(0)]
            shares = (sure.sum() / known.sum(), wrong.sum() / sure.sum(), by_attribute.mean())
            texts = [f"{100 * share:.1f} %" for share in shares]
            stated = f"{count} faces, stated {100 * error:.0f} %"
            yield f"{stated}: {texts[0]} sure, {texts[1]} of these wrong, mean over attributes {texts[2]}"


PARTS: Final = {"audit": audit, "unsure": unsure, "suggest": suggest}


if __name__ == "__main__":
    run(main)
