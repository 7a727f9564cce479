"""Scores against scikit-learn and against brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, balanced_accuracy_score

from training.evaluate import format_table
from training.metrics import SCORES, best_threshold, mean_scores, scores


def test_scores_are_scikit_learns_over_the_known_labels() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(-1, 2, 200).astype(np.int8)
    chances = random.random(200)
    known = labels >= 0
    found = scores(labels, chances, 0.3)
    assert found["average_precision"] == average_precision_score(labels[known], chances[known])
    assert found["balanced_accuracy"] == balanced_accuracy_score(labels[known], chances[known] >= 0.3)
    assert found["accuracy"] == ((chances >= 0.5) == labels)[known].mean()


def test_an_attribute_with_one_answer_has_an_accuracy_alone() -> None:
    found = scores(np.zeros(5, np.int8), np.full(5, 0.2), 0.5)
    assert found == {"accuracy": 1.0, "balanced_accuracy": None, "average_precision": None, "roc_auc": None}
    assert scores(np.full(5, -1, np.int8), np.full(5, 0.2), 0.5) == dict.fromkeys(SCORES)


def test_a_constant_answer_has_balanced_accuracy_one_half_and_the_prevalence_as_precision() -> None:
    labels = np.array([1] * 20 + [0] * 80, np.int8)
    found = scores(labels, np.full(100, 0.2), 0.5)
    assert found["accuracy"] == 0.8
    assert found["balanced_accuracy"] == 0.5
    assert found["average_precision"] == pytest.approx(0.2)


@given(st.lists(st.tuples(st.integers(-1, 1), st.integers(0, 8)), min_size=1, max_size=40))
@settings(deadline=None, max_examples=200)
def test_no_threshold_is_better_than_the_best(pairs: list[tuple[int, int]]) -> None:
    labels = np.array([label for label, _ in pairs], np.int8)
    chances = np.array([chance / 8 for _, chance in pairs])
    known = labels >= 0
    threshold = best_threshold(labels, chances)
    if len(set(labels[known].tolist())) < 2:
        assert threshold == 0.5
        return
    reached = balanced_accuracy_score(labels[known], chances[known] >= threshold)
    for other in np.linspace(-0.01, 1.01, 52):
        assert reached >= balanced_accuracy_score(labels[known], chances[known] >= other) - 1e-12


def test_means_leave_out_what_is_missing() -> None:
    empty = dict.fromkeys(SCORES)
    means = mean_scores({"a": {**empty, "accuracy": 0.5}, "b": {**empty, "accuracy": 1.0}})
    assert means == {**empty, "accuracy": 0.75}


def test_the_table_has_a_row_per_run_in_percent() -> None:
    row = dict.fromkeys(SCORES, 0.5)
    lines = format_table(
        {"majority class": row, "pretrained-1%": {"faces": 84, **row, "roc_auc": None}}
    ).split("\n")
    assert lines[0].split()[:2] == ["run", "faces"]
    assert lines[2].split() == ["pretrained-1%", "84", "50.0", "50.0", "50.0", "-"]
