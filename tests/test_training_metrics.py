"""Scores against scikit-learn and against brute force; thresholds; the table."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn
from sklearn.calibration import calibration_curve

from training.evaluate.evaluate import summary
from training.evaluate.metrics import BINS, METRICS, score
from training.evaluate.scoring import mean_over_attributes, reliability
from training.evaluate.thresholds import best_threshold, best_thresholds


def scores_of(labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> dict[str, float]:
    labels, ones = labels.astype(np.int8), np.ones((1, len(labels)))
    ((values,),) = score(labels[:, None], probabilities[:, None], [threshold], ones)
    return dict(zip(METRICS, values.tolist(), strict=True))


def calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> float:
    return scores_of(labels, probabilities, 0.5)["calibration_error"]


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


def test_an_attribute_with_one_label_has_accuracy_and_calibration_alone():
    scores = scores_of(np.zeros(5), np.full(5, 0.2), 0.5)
    assert {name: value for name, value in scores.items() if not np.isnan(value)} == {
        "accuracy": 1.0,
        "calibration_error": pytest.approx(0.2),
    }
    assert np.isnan(list(scores_of(np.full(5, -1), np.full(5, 0.2), 0.5).values())).all()


def test_a_constant_prediction_has_balanced_accuracy_one_half_and_the_prevalence_as_precision():
    scores = scores_of(np.array([1] * 20 + [0] * 80), np.full(100, 0.2), 0.5)
    expected = {"accuracy": 0.8, "balanced_accuracy": 0.5, "f1": 0.0, "average_precision": 0.2}
    assert {name: scores[name] for name in expected} == pytest.approx(expected)
    assert scores["calibration_error"] == pytest.approx(0.0)


def test_calibration_is_the_weighted_distance_of_each_bin():
    # Two bins are filled: ten faces at 0.1 of which 4 have the attribute, and thirty at 0.9 of which 27 do.
    labels = np.array([1] * 4 + [0] * 6 + [1] * 27 + [0] * 3)
    probabilities = np.array([0.1] * 10 + [0.9] * 30)
    assert calibration_error(labels, probabilities) == pytest.approx(10 / 40 * 0.3)
    labels = np.append(labels, -1)[None].astype(np.int8)
    assert reliability(labels, np.append(probabilities, 0.5)[None]) == [
        {"predicted": 0.1, "observed": 0.4, "count": 10},
        {"predicted": 0.9, "observed": 0.9, "count": 30},
    ]


def test_labels_that_are_drawn_from_the_probabilities_are_calibrated():
    random = np.random.default_rng(0)
    probabilities = random.random(20_000)
    labels = random.random(20_000) < probabilities
    assert calibration_error(labels, probabilities) < 0.02
    assert calibration_error(labels, probabilities**3) > 0.2


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


def test_without_faces_to_tune_on_every_threshold_is_one_half():
    assert best_thresholds(np.empty((0, 3), np.int8), None) == [0.5, 0.5, 0.5]


def test_a_mean_leaves_out_attributes_that_a_resample_cannot_score():
    values = np.full((3, 3, len(METRICS)), 0.5)
    values[1, 0], values[:, 2] = np.nan, np.nan
    assert (mean_over_attributes(values) == 0.5).all()
    assert np.isnan(mean_over_attributes(np.full((2, 1, len(METRICS)), np.nan))).all()


def test_the_summary_has_a_row_per_method_and_names_the_best_with_each_amount_of_labels():
    scores = {"scratch-1%": 0.3, "probe-1%": 0.5, "scratch-5%": 0.6, "probe-5%": None}
    runs = [
        {
            "name": name, "title": name.partition("-")[0], "labels": name[-2:], "faces": 84 * int(name[-2]),
            "thresholds_from": "val",
        }
        for name in scores
    ]  # fmt: skip
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
