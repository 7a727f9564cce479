"""Which labels are probably wrong, which faces to label next, and which predictions are unsure."""

import numpy as np
import pytest
import torch

from common.errors import UserError
from training.evaluate.thresholds import Sureness
from training.label.audit import near_duplicates
from training.label.issues import contradicted, disagreeing, label_quality, self_confidence
from training.label.left_out import folds_of
from training.label.suggestions import informative
from training.methods.region_probe import StandardisedFeatures
from training.models.probe import Probe


def test_a_label_that_its_prediction_contradicts_has_low_confidence_and_an_unknown_one_has_none():
    logits = np.array([[3.0, 800.0], [3.0, -800.0], [-3.0, 0.0]])
    labels = np.array([[1, 1], [0, 1], [-1, 0]], np.int8)
    confidence = self_confidence(logits, labels)
    assert confidence[0, 0] == pytest.approx(0.9526, abs=1e-4)
    assert confidence[1, 0] == pytest.approx(0.0474, abs=1e-4)
    assert confidence[:, 1].tolist() == [1, 0, 0.5]
    assert np.isnan(confidence[2, 0])


def test_flipped_labels_have_the_lowest_quality_and_are_most_of_the_issues():
    random = np.random.default_rng(0)
    hidden = random.normal(size=(400, 1)) + 0.5 * random.normal(size=(400, 6))
    truth = (hidden + 0.3 * random.normal(size=hidden.shape) > 0).astype(np.int8)
    flipped = random.random(truth.shape) < 0.05
    labels = np.where(flipped, 1 - truth, truth).astype(np.int8)
    logits, count = 2 * (hidden + 0.5 * random.normal(size=hidden.shape)), int(flipped.sum())

    def precision(scores: np.ndarray) -> float:
        return float(flipped.ravel()[np.argsort(scores, axis=None)[:count]].mean())

    confidence = self_confidence(logits, labels)
    quality = label_quality(logits, labels, [None] * len(labels))
    assert precision(quality) > precision(confidence) > 0.4
    assert flipped[contradicted(confidence, labels)].mean() > 0.2  # a random label is flipped with 0.05


def test_an_attribute_with_one_value_alone_has_no_issue():
    labels = np.ones((30, 2), np.int8)
    labels[:, 1] = -1
    logits = np.random.default_rng(0).normal(size=labels.shape)
    assert not contradicted(self_confidence(logits, labels), labels).any()
    assert np.isfinite(label_quality(logits, labels, [None] * 30)[:, 0]).all()


def test_photos_of_one_person_that_disagree_about_what_does_not_change_are_issues():
    people = [f"{number // 4}" for number in range(80)] + [None, None]
    male = np.array([number // 4 % 2 for number in range(80)] + [0, 1], np.int8)
    smiling = np.array([number % 2 for number in range(82)], np.int8)
    male[5] = 1 - male[5]
    issues = disagreeing(np.stack([male, smiling], axis=1), people)
    assert np.argwhere(issues).tolist() == [[5, 0]]


def test_no_person_is_in_two_folds_and_folds_are_alike_in_size():
    people = [str(number % 60) if number % 3 else None for number in range(300)]
    folds = folds_of(people)
    pairs = {(name, fold) for name, fold in zip(people, folds.tolist(), strict=True) if name}
    assert len(pairs) == len({name for name, _ in pairs})
    assert np.ptp(np.bincount(folds)) < 10
    assert folds_of(["a", "a", "b"]).max() == 1


def test_suggestions_are_spread_over_the_set_and_away_from_labelled_faces():
    group = np.arange(40) % 4
    similarity = np.where(group[:, None] == group, 0.9, 0.0) + 0.1 * np.eye(40)
    order = informative(similarity, 0, [None] * 40, 4)
    assert sorted(group[order]) == [0, 1, 2, 3]
    labelled_first = informative(similarity, 3, [None] * 37, 1)
    assert group[3:][labelled_first] == 3
    assert informative(similarity, 3, [None] * 37, 5) == informative(similarity, 3, [None] * 37, 5)


def test_suggestions_have_nobody_twice_and_end_with_the_people():
    similarity = np.exp(-np.abs(np.subtract.outer(np.arange(12.0), np.arange(12.0))))
    order = informative(similarity, 0, ["a"] * 6 + ["b"] * 4 + [None] * 2, 50)
    assert len(order) == 4
    assert sum(face < 6 for face in order) == sum(6 <= face < 10 for face in order) == 1


def test_nearly_the_same_picture_in_two_splits_is_found_and_within_a_split_is_not():
    values = np.random.default_rng(0).normal(size=(6, 50)).astype(np.float32)
    values[3], values[5] = values[0] + 0.05, 1.1 * values[1]
    parts = (("pooled", -1, 0, 40), ("pooled", 0, 40, 50))
    features = StandardisedFeatures(values, ("pooled",), parts, np.zeros(50), np.ones(50))
    splits = np.array(["train", "train", "train", "test", "val", "train"])
    assert near_duplicates(features, splits) == [(0, 3)]


def probe_with(logits: np.ndarray, labels: np.ndarray) -> Probe:
    none, names = np.zeros(0), tuple(str(column) for column in range(labels.shape[1]))
    probe = Probe(attributes=names, blocks=(), parts=(), mean=none, scale=none, weights=none, biases=none)
    probe.left_out = {"logits": torch.from_numpy(logits).float(), "labels": torch.from_numpy(labels)}
    return probe


@pytest.mark.parametrize("error", [0.02, 0.05, 0.2])
def test_present_and_absent_keep_the_stated_error_each_and_the_rest_is_unsure(error):
    random = np.random.default_rng(0)
    logits = random.normal([0, -2, 1], 3, size=(12000, 3))
    labels = (random.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.int8)
    labels[::7, 1] = -1
    sureness = Sureness.of(probe_with(logits[:4000], labels[:4000]), error)
    new, known = sureness.decide(1 / (1 + np.exp(-logits[4000:]))), labels[4000:] >= 0
    for kind in (0, 1):
        sure = known & (new == kind)
        assert 0.5 * error < (labels[4000:][sure] != kind).mean() < 1.25 * error
    assert ((new == -1).mean() < 0.1) == (error == 0.2)


def test_few_faces_leave_all_unsure_and_without_left_out_faces_no_error_is_known():
    logits, labels = np.array([[9.0], [-9.0]] * 8), np.array([[1], [0]] * 8, np.int8)
    assert (Sureness.of(probe_with(logits, labels), 0.05).decide(np.array([[0.999], [0.001]])) == -1).all()
    assert Sureness.of(probe_with(logits, labels), 0.2).decide(np.array([[0.9999], [0.0001]])).tolist() == [
        [1],
        [0],
    ]
    probe = probe_with(logits, labels)
    probe.left_out = None
    with pytest.raises(UserError, match=r"training\.fit"):
        Sureness.of(probe, 0.05)
