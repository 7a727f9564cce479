"""The bootstrap over identities, against scikit-learn and against statistics; gaps between groups."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.config import load
from training.data.samples import Samples
from training.evaluate.bootstrap import (
    confidence_interval,
    mean_over_attributes,
    resample_attribute,
    resample_attributes,
    resample_identities,
)
from training.evaluate.metrics import METRICS, score_attribute, score_attributes
from training.evaluate.scoring import SCRATCH, Evaluator, uncertainty
from training.evaluate.subgroups import compare_subgroups

SETTINGS = load(settings=["evaluate.resamples=300", "evaluate.subgroups=[Hat]"]).evaluate
SHARE, DIFFERENCE = METRICS["accuracy"].bounds, METRICS["accuracy"].difference_bounds


def faces_of(labels: np.ndarray, identities: list[str | None], names: tuple[str, ...]) -> Samples:
    keys = [f"face{i}" for i in range(len(labels))]
    return Samples("nowhere", keys, ["shard"] * len(keys), {}, names, labels, identities)  # type: ignore[arg-type]


@given(
    st.lists(st.tuples(st.integers(-1, 1), st.integers(0, 8), st.integers(0, 3)), min_size=1, max_size=40),
    st.sampled_from([0.2, 0.5, 0.75]),
)
@settings(deadline=None, max_examples=200)
def test_a_resample_scores_as_scikit_learn_scores_repeated_faces(
    rows: list[tuple[int, int, int]], threshold: float
) -> None:
    labels, eighths, times = (np.array(column) for column in zip(*rows, strict=True))
    truth, probabilities = labels.astype(np.int8), eighths / 8
    result = resample_attribute(truth, probabilities, threshold, times[None].astype(np.float64))[0]
    expected = score_attribute(truth.repeat(times), probabilities.repeat(times), threshold)
    for value, name in zip(result, METRICS, strict=True):
        if expected[name] is None:
            assert np.isnan(value), name
        else:
            assert value == pytest.approx(expected[name], abs=1e-12), name


def test_pictures_of_one_person_are_drawn_together_and_unknown_people_alone() -> None:
    people = ["a", "b", "a", None, None, "b", "a"]
    weights = resample_identities(people, 200, seed=1)
    assert (weights[:, 0] == weights[:, 2]).all() and (weights[:, 0] == weights[:, 6]).all()
    assert (weights[:, 1] == weights[:, 5]).all()
    assert (weights[:, 3] != weights[:, 4]).any()
    assert (weights[:, [0, 1, 3, 4]].sum(axis=1) == 4).all()  # four people are drawn of four


def test_equal_seeds_draw_the_same_and_others_do_not() -> None:
    people = [str(i) for i in range(50)]
    assert np.array_equal(resample_identities(people, 20, 3), resample_identities(people, 20, 3))
    assert not np.array_equal(resample_identities(people, 20, 3), resample_identities(people, 20, 4))


def test_few_people_with_many_pictures_give_a_wider_interval_than_many_people() -> None:
    random = np.random.default_rng(0)
    skill = random.random(10).repeat(40)  # of the network, by person
    labels = random.integers(0, 2, 400).astype(np.int8)
    probabilities = np.where(random.random(400) < skill, labels, 1 - labels).astype(np.float64)

    def width(people: list[str | None]) -> float:
        values = resample_attribute(labels, probabilities, 0.5, resample_identities(people, 300, 0))[:, 0]
        low, high = confidence_interval(values, float(np.mean(values)), SHARE) or (0, 0)
        return high - low

    assert width([str(i // 40) for i in range(400)]) > 2 * width([None] * 400)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    random, covered = np.random.default_rng(0), 0
    for trial in range(100):
        labels = np.ones(300, np.int8)
        probabilities = (random.random(300) < 0.7).astype(np.float64)
        values = resample_attribute(
            labels, probabilities, 0.5, resample_identities([None] * 300, 200, trial)
        )[:, 0]
        low, high = confidence_interval(values, float(probabilities.mean()), SHARE) or (0, 0)
        covered += low <= 0.7 <= high
    assert 88 <= covered <= 100


def test_all_attributes_at_once_are_each_scored_alone() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(-1, 2, (200, 4)).astype(np.int8)
    probabilities = random.random((200, 4))
    weights = resample_identities([None] * 200, 50, 0)
    result = resample_attributes(labels, probabilities, [0.5] * 4, weights)
    assert result.shape == (50, 4, len(METRICS))
    assert np.allclose(
        result[:, 2], resample_attribute(labels[:, 2], probabilities[:, 2], 0.5, weights), equal_nan=True
    )


def test_a_mean_leaves_out_attributes_that_a_resample_cannot_score() -> None:
    values = np.full((2, 3, len(METRICS)), 0.5)
    values[0, 0], values[:, 2] = np.nan, 0.9
    scored = np.array([True, True, False])[:, None].repeat(len(METRICS), 1)
    assert (mean_over_attributes(values, scored) == 0.5).all()
    assert confidence_interval(np.full(3, np.nan), 0.5, SHARE) is None


def test_an_interval_lies_around_the_estimate_and_within_what_is_possible() -> None:
    values = np.linspace(0.3, 0.5, 101)
    assert confidence_interval(values, 0.1, SHARE) == [0.005, 0.195]
    assert confidence_interval(values, 0.99, SHARE) == [0.895, 1.0]
    assert confidence_interval(values - 0.4, -0.2, DIFFERENCE) == [-0.295, -0.105]
    assert confidence_interval(values, None, SHARE) is None


def test_a_gap_is_the_difference_of_the_two_groups_scored_alone() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, (600, 3)).astype(np.int8)
    labels[::7, 0], labels[::5, 1] = -1, -1
    noise = np.where(labels[:, [0]] == 1, 0.2, 2.0)  # with the hat, faces are easy
    probabilities = 1 / (1 + np.exp(-(labels - 0.5) - noise * random.normal(size=(600, 3))))
    result = compare_subgroups(labels, probabilities, [0.5] * 3, 0, resample_identities([None] * 600, 200, 0))
    for name, label in (("yes", 1), ("no", 0)):
        rows = labels[:, 0] == label
        alone = score_attributes(labels[rows][:, 1:], probabilities[rows][:, 1:], [0.5] * 2)
        mean = np.mean([each["average_precision"] for each in alone])  # type: ignore[arg-type]
        assert result[name]["faces"] == rows.sum()
        assert result[name]["average_precision"] == pytest.approx(mean, abs=1e-4)
    gap = result["difference"]["average_precision"]
    assert gap == pytest.approx(
        result["yes"]["average_precision"] - result["no"]["average_precision"], abs=2e-4
    )
    low, high = result["difference"]["average_precision_interval"]
    assert 0 < low < gap < high


def test_groups_are_compared_on_the_attributes_that_both_have() -> None:
    labels = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 1], [0, 0, 0]], np.int8)
    probabilities = np.array([[0.9, 0.8, 0.1], [0.9, 0.2, 0.1], [0.1, 0.3, 0.1], [0.1, 0.6, 0.9]])
    result = compare_subgroups(labels, probabilities, [0.5] * 3, 0, resample_identities([None] * 4, 20, 0))
    # Only the second attribute has both classes in both groups; the third would pull the no group to 0.75.
    assert result["yes"]["average_precision"] == 1.0
    assert result["no"]["average_precision"] == 0.5


def test_a_group_that_nobody_is_in_has_no_gap() -> None:
    labels = np.array([[1, 1], [1, 0], [1, 1]], np.int8)
    result = compare_subgroups(
        labels, np.full((3, 2), 0.4), [0.5] * 2, 0, resample_identities([None] * 3, 20, 0)
    )
    assert result["no"]["faces"] == 0
    assert result["difference"]["accuracy"] is None and result["difference"]["accuracy_interval"] is None


def test_a_gain_is_paired_with_the_run_from_scratch_on_the_same_labels(
    capsys: pytest.CaptureFixture[str],
) -> None:
    random = np.random.default_rng(1)
    labels = random.integers(0, 2, (200, 5)).astype(np.int8)
    test = faces_of(labels, [str(i // 2) for i in range(200)], ("A", "B", "C", "D", "E"))
    evaluator = Evaluator(test, SETTINGS)
    assert "no subgroups by Hat" in capsys.readouterr().out
    noise, signal = random.random((200, 5)), (labels + random.random((200, 5))) / 2
    guesses = {"scratch-5%": noise, "semi-5%": signal, "pretrained-5%": random.random((200, 5))}
    scored = {name: evaluator.score(predicted, [0.5] * 5) for name, predicted in guesses.items()}
    scored["semi-9%"] = scored["semi-5%"]
    runs = [{"name": name, "initial": name.split("-")[0], "labels": name.split("-")[1]} for name in scored]
    result = uncertainty(scored, runs)
    low, high = result["semi-5%"]["gains"]["average_precision"]["interval"]
    assert 0.2 < low < result["semi-5%"]["gains"]["average_precision"]["value"] < high
    low, high = result["pretrained-5%"]["gains"]["average_precision"]["interval"]
    assert low < 0 < high
    assert result[f"{SCRATCH}-5%"]["gains"] == {} and result["semi-9%"]["gains"] == {}
    mean_low, mean_high = result["semi-5%"]["means"]["average_precision"]
    assert mean_low <= (scored["semi-5%"].means["average_precision"] or 0) <= mean_high


def test_missing_labels_take_no_part_in_any_score_or_interval() -> None:
    random = np.random.default_rng(2)
    labels = random.integers(0, 2, (120, 2)).astype(np.int8)
    labels[60:, 1] = -1
    predicted = random.random((120, 2))
    other = predicted.copy()
    other[60:, 1] = random.random(60)
    evaluator = Evaluator(faces_of(labels, [None] * 120, ("Hat", "Smile")), SETTINGS)
    assert evaluator.score(predicted, [0.5, 0.5]).attributes == evaluator.score(other, [0.5, 0.5]).attributes
