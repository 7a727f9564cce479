"""Scores against scikit-learn and brute force; thresholds, the table, intervals, subgroups and gains."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn
from sklearn.calibration import calibration_curve

from common.config import load
from training.data.samples import Samples
from training.evaluate.evaluate import summary
from training.evaluate.metrics import BINS, METRICS, score
from training.evaluate.scoring import (
    Evaluator,
    compare_subgroups,
    confidence_interval,
    reliability,
    resample_identities,
    uncertainty,
)
from training.evaluate.thresholds import best_threshold


@given(
    st.lists(st.tuples(st.integers(-1, 1), st.integers(0, 8), st.integers(0, 3)), min_size=1, max_size=40),
    st.sampled_from([0.2, 0.5, 0.75]),
)
@settings(max_examples=200)
def test_a_resample_scores_as_scikit_learn_scores_repeated_faces(rows, threshold):
    labels, eighths, times = (np.array(column) for column in zip(*rows, strict=True))
    columns = labels[:, None].astype(np.int8), eighths[:, None] / 8
    ((values,),) = score(*columns, [threshold], times[None].astype(np.float64))
    truth, probabilities = labels.repeat(times), (eighths / 8).repeat(times)
    truth, probabilities = truth[truth >= 0], probabilities[truth >= 0]
    expected = dict.fromkeys(METRICS, np.nan)
    if len(truth):
        observed, predicted = calibration_curve(truth == 1, probabilities, n_bins=BINS, pos_label=True)
        edges = np.linspace(0, 1, BINS + 1)[1:-1]
        counts = np.bincount(np.searchsorted(edges, probabilities), minlength=BINS)
        expected["accuracy"] = sklearn.accuracy_score(truth, probabilities >= 0.5)
        expected["calibration_error"] = np.average(np.abs(predicted - observed), weights=counts[counts > 0])
    if len(set(truth.tolist())) == 2:
        expected["balanced_accuracy"] = sklearn.balanced_accuracy_score(truth, probabilities >= threshold)
        expected["f1"] = sklearn.f1_score(truth, probabilities >= threshold)
        expected["average_precision"] = sklearn.average_precision_score(truth, probabilities)
        expected["roc_auc"] = sklearn.roc_auc_score(truth, probabilities)
    for value, (name, wanted) in zip(values, expected.items(), strict=True):
        assert value == pytest.approx(wanted, abs=1e-12, nan_ok=True), name


def test_the_bins_of_the_reliability_have_means_and_unknown_labels_are_in_none():
    # Two bins are filled: ten faces at 0.1 of which 4 have the attribute, and thirty at 0.9 of which 27 do.
    labels = np.array([[1] * 4 + [0] * 6 + [1] * 27 + [0] * 3 + [-1]], np.int8)
    assert reliability(labels, np.array([[0.1] * 10 + [0.9] * 30 + [0.5]])) == [
        {"predicted": 0.1, "observed": 0.4, "count": 10},
        {"predicted": 0.9, "observed": 0.9, "count": 30},
    ]


@given(st.lists(st.tuples(st.integers(-1, 1), st.integers(0, 8)), min_size=1, max_size=40))
@settings(max_examples=60)
def test_no_threshold_is_better_than_the_best(pairs):
    labels = np.array([label for label, _ in pairs], np.int8)
    probabilities = np.array([eighths / 8 for _, eighths in pairs])
    known = labels >= 0
    threshold = best_threshold(labels, probabilities)
    if len(set(labels[known].tolist())) < 2:
        assert threshold == 0.5
        return
    reached = sklearn.balanced_accuracy_score(labels[known], probabilities[known] >= threshold)
    for other in np.linspace(-0.01, 1.01, 52):
        balanced = sklearn.balanced_accuracy_score(labels[known], probabilities[known] >= other)
        assert reached >= balanced - 1e-12


def test_the_summary_has_a_row_per_method_and_names_the_best_with_each_amount_of_labels():
    scores = {"scratch-1%": 0.3, "probe-1%": 0.5, "scratch-5%": 0.6, "probe-5%": None}
    runs = [{"name": name, "title": name[:-3], "labels": name[-2:]} for name in scores]
    runs = [{**run, "faces": 84 * int(run["labels"][0]), "thresholds_from": "val"} for run in runs]
    means = {name: dict.fromkeys(METRICS, value) for name, value in {"majority class": 0.2, **scores}.items()}
    intervals = {name: {metric: [0.48, 0.52] for metric in METRICS} for name in scores}
    text = summary(runs, means, intervals, Path("runs/finetune"))
    table, first, second = text.split("\n\n")
    rows = [line.split() for line in table.splitlines()[2:]]
    assert rows == [
        ["majority", "class", *["20.0"] * 4],
        ["scratch", "30.0", "30.0", "60.0", "60.0"],
        ["probe", "50.0", "50.0", "-", "-"],
    ]
    assert first.startswith("best with 84 labels: probe, average precision 50.0 (95 % interval 48.0 to 52.0)")
    assert "--checkpoint runs/finetune/probe-1%/classifier.pt photos/" in first
    assert second.startswith("best with 420 labels: scratch")


SETTINGS = load(settings=["evaluate.resamples=300", "evaluate.subgroups=[Hat]"]).evaluate
SHARE = (0.0, 1.0)


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
    weights = resample_identities([None] * 600, 200, 0)
    result = compare_subgroups(labels, probabilities, [0.5] * 3, 0, weights, np.ones(3, bool))
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
    weights = resample_identities([None] * 4, 20, 0)
    result = compare_subgroups(labels, probabilities, [0.5] * 3, 0, weights, np.ones(3, bool))
    # Only the second attribute has both classes in both groups; the third would pull the no group to 0.75.
    assert result["yes"]["average_precision"] == 1.0
    assert result["no"]["average_precision"] == 0.5
    result = compare_subgroups(labels[:2], probabilities[:2], [0.5] * 3, 0, weights[:, :2], np.ones(3, bool))
    assert result["no"]["faces"] == 0
    assert result["difference"]["accuracy"] is None and result["difference"]["accuracy_interval"] is None


def test_a_gain_is_paired_with_the_first_method_on_the_same_labels(capsys):
    random = np.random.default_rng(1)
    labels = random.integers(0, 2, (200, 5)).astype(np.int8)
    test = faces_of(labels, [str(i // 2) for i in range(200)], ("A", "B", "C", "D", "E"))
    evaluator = Evaluator(test, SETTINGS, test)
    assert "no subgroups by Hat" in capsys.readouterr().out
    noise, signal = random.random((200, 5)), (labels + random.random((200, 5))) / 2
    guesses = {"scratch-5%": noise, "probe-5%": signal, "pretrained-5%": random.random((200, 5))}
    scored = {name: evaluator.score(predicted, [0.5] * 5) for name, predicted in guesses.items()}
    scored["probe-9%"] = scored["probe-5%"]
    runs = [{"name": name, "labels": name[-2], "faces": int(name[-2])} for name in scored]
    result = uncertainty(scored, runs)
    low, high = result["probe-5%"]["gains"]["average_precision"]["interval"]
    assert 0.2 < low < result["probe-5%"]["gains"]["average_precision"]["value"] < high
    low, high = result["pretrained-5%"]["gains"]["average_precision"]["interval"]
    assert low < 0 < high
    assert result["scratch-5%"]["gains"] == {} and result["probe-9%"]["gains"] == {}
    low, high = result["probe-5%"]["means"]["average_precision"]
    assert low <= (scored["probe-5%"].mean_scores["average_precision"] or 0) <= high


def test_labels_that_no_face_in_train_has_are_named_and_count_in_no_mean(capsys):
    random = np.random.default_rng(3)
    labels = random.integers(0, 2, (120, 3)).astype(np.int8)
    predicted = (labels + random.random((120, 3))) / 2
    predicted[:, 2] = 0.5
    names = ("Hat", "Smile", "Beard")
    seen = labels * np.array([1, 1, 0], np.int8)
    test, train = (faces_of(each, [None] * 120, names) for each in (labels, seen))
    scores = Evaluator(test, SETTINGS, train).score(predicted, [0.5] * 3)
    assert "no face in train has Beard, so the means are without it" in capsys.readouterr().out
    assert scores.attributes["Beard"]["roc_auc"] == 0.5
    assert scores.mean_scores["roc_auc"] == scores.subgroups["Hat"]["yes"]["roc_auc"] == 1.0
