"""Scores against scikit-learn and against brute force; thresholds; the table."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics
from sklearn.metrics import balanced_accuracy_score

from training.evaluate.calibration import BINS, calibration_error
from training.evaluate.metrics import METRICS, mean_scores, score_attribute
from training.evaluate.output import format_table
from training.evaluate.thresholds import best_threshold, best_thresholds


def test_scores_are_scikit_learns_over_the_known_labels() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(-1, 2, 200).astype(np.int8)
    probabilities = random.random(200)
    known = labels >= 0
    truth, predicted = labels[known], probabilities[known]
    scores = score_attribute(labels, probabilities, 0.3)
    assert scores["average_precision"] == sklearn_metrics.average_precision_score(truth, predicted)
    assert scores["roc_auc"] == sklearn_metrics.roc_auc_score(truth, predicted)
    assert scores["balanced_accuracy"] == balanced_accuracy_score(truth, predicted >= 0.3)
    assert scores["f1"] == sklearn_metrics.f1_score(truth, predicted >= 0.3)
    assert scores["accuracy"] == ((probabilities >= 0.5) == labels)[known].mean()


def test_an_attribute_with_one_answer_has_accuracy_and_calibration_alone() -> None:
    scores = score_attribute(np.zeros(5, np.int8), np.full(5, 0.2), 0.5)
    assert {name: value for name, value in scores.items() if value is not None} == {
        "accuracy": 1.0,
        "calibration_error": pytest.approx(0.2),
    }
    assert score_attribute(np.full(5, -1, np.int8), np.full(5, 0.2), 0.5) == dict.fromkeys(METRICS)


def test_a_constant_answer_has_balanced_accuracy_one_half_and_the_prevalence_as_precision() -> None:
    labels = np.array([1] * 20 + [0] * 80, np.int8)
    scores = score_attribute(labels, np.full(100, 0.2), 0.5)
    assert scores["accuracy"] == 0.8
    assert scores["balanced_accuracy"] == 0.5
    assert scores["f1"] == 0.0
    assert scores["average_precision"] == pytest.approx(0.2)
    assert scores["calibration_error"] == pytest.approx(0.0)


def test_the_calibration_error_is_the_weighted_distance_of_each_bin() -> None:
    # Two bins are filled: ten faces at 0.1 of which 4 are a yes, and thirty at 0.9 of which 27 are.
    labels = np.array([1] * 4 + [0] * 6 + [1] * 27 + [0] * 3, np.int8)
    probabilities = np.array([0.1] * 10 + [0.9] * 30)
    assert calibration_error(labels, probabilities) == pytest.approx(10 / 40 * 0.3)


def test_probabilities_that_are_drawn_from_are_calibrated() -> None:
    random = np.random.default_rng(0)
    probabilities = random.random(20_000)
    labels = (random.random(20_000) < probabilities).astype(np.int8)
    assert calibration_error(labels, probabilities) < 0.02
    assert calibration_error(labels, probabilities**3) > 0.2
    assert BINS == 15


@given(st.lists(st.tuples(st.integers(-1, 1), st.integers(0, 8)), min_size=1, max_size=40))
@settings(deadline=None, max_examples=60)
def test_no_threshold_is_better_than_the_best(pairs: list[tuple[int, int]]) -> None:
    labels = np.array([label for label, _ in pairs], np.int8)
    probabilities = np.array([chance / 8 for _, chance in pairs])
    known = labels >= 0
    threshold = best_threshold(labels, probabilities)
    if len(set(labels[known].tolist())) < 2:
        assert threshold == 0.5
        return
    reached = balanced_accuracy_score(labels[known], probabilities[known] >= threshold)
    for other in np.linspace(-0.01, 1.01, 52):
        assert reached >= balanced_accuracy_score(labels[known], probabilities[known] >= other) - 1e-12


def test_without_faces_to_tune_on_every_threshold_is_one_half() -> None:
    assert best_thresholds(np.empty((0, 3), np.int8), None) == [0.5, 0.5, 0.5]


def test_means_leave_out_what_is_missing() -> None:
    empty: dict[str, float | None] = dict.fromkeys(METRICS)
    means = mean_scores([{**empty, "accuracy": 0.5}, {**empty, "accuracy": 1.0}])
    assert means == {**empty, "accuracy": 0.75}


def test_the_table_has_a_row_per_run_in_percent() -> None:
    row = dict.fromkeys(METRICS, 0.5)
    lines = format_table(
        {"majority class": row, "pretrained-1%": {"faces": 84, **row, "roc_auc": None}}
    ).split("\n")
    assert lines[0].split()[:2] == ["run", "faces"]
    assert lines[2].split() == ["pretrained-1%", "84", "50.0", "50.0", "50.0", "50.0", "-", "50.0"]
