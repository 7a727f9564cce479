"""The bootstrap over identities, against statistics; subgroups and gains."""

import numpy as np
import pytest

from common.config import load
from training.data.samples import Samples
from training.evaluate.metrics import METRICS, score
from training.evaluate.scoring import (
    Evaluator,
    compare_subgroups,
    confidence_interval,
    resample_identities,
    uncertainty,
)

ALL = np.ones(9, bool)
SETTINGS = load(settings=["evaluate.resamples=300", "evaluate.subgroups=[Hat]"]).evaluate
SHARE = METRICS["accuracy"].bounds


def faces_of(labels: np.ndarray, identities: list[str | None], names: tuple[str, ...]) -> Samples:
    keys = [f"face{i}" for i in range(len(labels))]
    return Samples("nowhere", keys, ["shard"] * len(keys), {}, names, labels, identities)


def accuracies(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    columns = labels[:, None].astype(np.int8), probabilities[:, None]
    return score(*columns, [0.5], weights)[:, 0, list(METRICS).index("accuracy")]


def test_photos_of_one_person_are_drawn_together_and_unknown_people_alone():
    people = ["a", "b", "a", None, None, "b", "a"]
    estimate, *resamples = resample_identities(people, 200, seed=1)
    weights = np.array(resamples)
    assert (estimate == 1).all()
    assert (weights[:, 0] == weights[:, 2]).all() and (weights[:, 0] == weights[:, 6]).all()
    assert (weights[:, 1] == weights[:, 5]).all()
    assert (weights[:, 3] != weights[:, 4]).any()
    assert (weights[:, [0, 1, 3, 4]].sum(axis=1) == 4).all()  # four people are drawn of four
    assert np.array_equal(weights, resample_identities(people, 200, seed=1)[1:])
    assert not np.array_equal(weights, resample_identities(people, 200, seed=2)[1:])


def test_few_people_with_many_photos_give_a_wider_interval_than_many_people():
    random = np.random.default_rng(0)
    skill = random.random(10).repeat(40)  # of the network, by person
    labels = random.integers(0, 2, 400)
    probabilities = np.where(random.random(400) < skill, labels, 1 - labels).astype(np.float64)

    def width(people: list[str | None]) -> float:
        values = accuracies(labels, probabilities, resample_identities(people, 300, 0))
        low, high = confidence_interval(values, SHARE) or (0, 0)
        return high - low

    assert width([str(i // 40) for i in range(400)]) > 2 * width([None] * 400)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    random, covered = np.random.default_rng(0), 0
    for trial in range(100):
        probabilities = (random.random(300) < 0.7).astype(np.float64)
        weights = resample_identities([None] * 300, 200, trial)
        low, high = confidence_interval(accuracies(np.ones(300), probabilities, weights), SHARE) or (0, 0)
        covered += low <= 0.7 <= high
    assert 88 <= covered <= 100


@pytest.mark.parametrize(
    ("estimate", "values", "bounds", "expected"),
    [
        (0.1, np.linspace(0.3, 0.5, 101), SHARE, [0.005, 0.195]),
        (0.99, np.linspace(0.3, 0.5, 101), SHARE, [0.895, 1.0]),
        (-0.2, np.linspace(-0.1, 0.1, 101), (-1.0, 1.0), [-0.295, -0.105]),
        (np.nan, np.linspace(0.3, 0.5, 101), SHARE, None),
        (0.5, np.full(3, np.nan), SHARE, None),
    ],
)
def test_an_interval_lies_around_the_estimate_and_within_what_is_possible(estimate, values, bounds, expected):
    assert confidence_interval(np.append(estimate, values), bounds) == expected


def test_the_difference_of_subgroups_is_that_of_the_two_scored_alone():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, (600, 3)).astype(np.int8)
    labels[::7, 0], labels[::5, 1] = -1, -1
    noise = np.where(labels[:, [0]] == 1, 0.2, 2.0)  # with the hat, faces are easy
    probabilities = 1 / (1 + np.exp(-(labels - 0.5) - noise * random.normal(size=(600, 3))))
    result = compare_subgroups(
        labels, probabilities, [0.5] * 3, 0, resample_identities([None] * 600, 200, 0), ALL[:3]
    )
    for name, label in (("yes", 1), ("no", 0)):
        rows = labels[:, 0] == label
        ones = np.ones((1, rows.sum()))
        alone = score(labels[rows][:, 1:], probabilities[rows][:, 1:], [0.5] * 2, ones)
        mean = alone[0, :, list(METRICS).index("average_precision")].mean()
        assert result[name]["faces"] == rows.sum()
        assert result[name]["average_precision"] == pytest.approx(mean, abs=1e-4)
    gap = result["difference"]["average_precision"]
    expected = result["yes"]["average_precision"] - result["no"]["average_precision"]
    assert gap == pytest.approx(expected, abs=2e-4)
    low, high = result["difference"]["average_precision_interval"]
    assert 0 < low < gap < high


def test_subgroups_are_compared_on_the_attributes_that_both_have():
    labels = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 1], [0, 0, 0]], np.int8)
    probabilities = np.array([[0.9, 0.8, 0.1], [0.9, 0.2, 0.1], [0.1, 0.3, 0.1], [0.1, 0.6, 0.9]])
    result = compare_subgroups(
        labels, probabilities, [0.5] * 3, 0, resample_identities([None] * 4, 20, 0), ALL[:3]
    )
    # Only the second attribute has both classes in both groups; the third would pull the no group to 0.75.
    assert result["yes"]["average_precision"] == 1.0
    assert result["no"]["average_precision"] == 0.5


def test_a_subgroup_without_a_face_has_no_difference():
    labels, weights = np.array([[1, 1], [1, 0], [1, 1]], np.int8), resample_identities([None] * 3, 20, 0)
    result = compare_subgroups(labels, np.full((3, 2), 0.4), [0.5] * 2, 0, weights, ALL[:2])
    assert result["no"]["faces"] == 0
    assert result["difference"]["accuracy"] is None and result["difference"]["accuracy_interval"] is None


def test_a_gain_is_paired_with_the_first_method_on_the_same_labels(
    capsys,
):
    random = np.random.default_rng(1)
    labels = random.integers(0, 2, (200, 5)).astype(np.int8)
    test = faces_of(labels, [str(i // 2) for i in range(200)], ("A", "B", "C", "D", "E"))
    evaluator = Evaluator(test, SETTINGS, test)
    assert "no subgroups by Hat" in capsys.readouterr().out
    noise, signal = random.random((200, 5)), (labels + random.random((200, 5))) / 2
    guesses = {"scratch-5%": noise, "probe-5%": signal, "pretrained-5%": random.random((200, 5))}
    scored = {name: evaluator.score(predicted, [0.5] * 5) for name, predicted in guesses.items()}
    scored["probe-9%"] = scored["probe-5%"]
    result = uncertainty(
        scored, [{"name": name, "labels": name[-2], "faces": int(name[-2])} for name in scored]
    )
    low, high = result["probe-5%"]["gains"]["average_precision"]["interval"]
    assert 0.2 < low < result["probe-5%"]["gains"]["average_precision"]["value"] < high
    low, high = result["pretrained-5%"]["gains"]["average_precision"]["interval"]
    assert low < 0 < high
    assert result["scratch-5%"]["gains"] == {} and result["probe-9%"]["gains"] == {}
    low, high = result["probe-5%"]["means"]["average_precision"]
    assert low <= (scored["probe-5%"].mean_scores["average_precision"] or 0) <= high


def test_missing_labels_take_no_part_in_any_score_or_interval():
    random = np.random.default_rng(2)
    labels = random.integers(0, 2, (120, 2)).astype(np.int8)
    labels[60:, 1] = -1
    predicted = random.random((120, 2))
    other = predicted.copy()
    other[60:, 1] = random.random(60)
    test = faces_of(labels, [None] * 120, ("Hat", "Smile"))
    evaluator = Evaluator(test, SETTINGS, test)
    assert evaluator.score(predicted, [0.5, 0.5]).attributes == evaluator.score(other, [0.5, 0.5]).attributes


def test_labels_that_no_face_in_train_has_are_named_and_count_in_no_mean(
    capsys,
):
    random = np.random.default_rng(3)
    labels = random.integers(0, 2, (120, 3)).astype(np.int8)
    predicted = (labels + random.random((120, 3))) / 2
    predicted[:, 2] = 0.5
    names = ("Hat", "Smile", "Beard")
    test, train = (
        faces_of(each, [None] * 120, names) for each in (labels, labels * np.array([1, 1, 0], np.int8))
    )
    scores = Evaluator(test, SETTINGS, train).score(predicted, [0.5] * 3)
    assert "no face in train has Beard, so the means are without it" in capsys.readouterr().out
    assert scores.attributes["Beard"]["roc_auc"] == 0.5
    assert scores.mean_scores["roc_auc"] == scores.subgroups["Hat"]["yes"]["roc_auc"] == 1.0
