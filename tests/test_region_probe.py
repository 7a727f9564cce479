"""The region probe: predictions of faces that no regression saw, and distances by regions."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from common.classes import CLASSES
from common.config import load
from common.errors import UserError
from training.data.loader import Batch
from training.engine.objective import mean_average_precision
from training.evaluate.evaluate import evaluate
from training.methods import calibration, kernel_regression
from training.methods.block_weights import learn_weights, prior_weights
from training.methods.calibration import FROM_LABELS, calibrate, draw_folds, use_label_thresholds
from training.methods.kernel_regression import BIAS, FIRST_PENALTY, Regressions, fit_regressions
from training.methods.region_probe import RIDGE, StandardisedFeatures, fit_on_features, ridge_of
from training.methods.runs import finetune
from training.models.classifier import load_classifier
from training.models.probe import POWER, WIDTH, Kernels, RegionProbe, read_regions, region_classes
from training.models.stored_features import comparable_parts, region_statistics

EYES = (CLASSES.index("l_eye"), CLASSES.index("r_eye"))
PARTS = comparable_parts([("pooled", 10, 64), ("statistics", 0, 11)])
COLUMNS = [(start, stop) for _, _, start, stop in PARTS]
WIDTH_OF_ALL = COLUMNS[-1][1]
SMALL = [(0, 2), (2, 5)]
"""Columns of two blocks of few features."""


def test_an_attributes_regions_have_the_greater_share_of_a_distance(tmp_path):
    (classes,) = region_classes(["Narrow_Eyes"], read_regions())
    assert classes == EYES
    weights = prior_weights(PARTS, [EYES, (), None])
    assert np.allclose(weights.sum(axis=1), 1)
    names = [part[:2] for part in PARTS]
    eyes, whole, unlisted = (dict(zip(names, row, strict=True)) for row in weights)
    assert eyes["pooled", -1] == pytest.approx(0.3)
    assert eyes["pooled", EYES[0]] == eyes["statistics", EYES[1]] == pytest.approx(0.175)
    assert whole["pooled", -1] == 1
    assert unlisted["statistics", 0] == pytest.approx(0.35 / 19)
    (tmp_path / "regions.yaml").write_text("Male: [beard]\n")
    with pytest.raises(UserError, match="Male has region 'beard'; known are background"):
        read_regions(tmp_path / "regions.yaml")


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_a_kernel_adds_the_weighed_distances_of_blocks_and_predictions(share):
    face, weights = torch.zeros(1, 5), np.array([[0.25, 0.75], [1.0, 0.0]])
    face[0, 2:] = 1
    kernels = Kernels(face, torch.zeros(1, 5), SMALL, weights)
    kernels = kernels.stacked(2 * torch.ones(1, 3), torch.zeros(1, 3), share)
    found = [float(WIDTH**2 * (-kernels(group).log().item()) ** (2 / POWER)) for group in (0, 1)]
    expected = [0.75 * (1 - share) + 4 * share, 4 * share]
    assert found == pytest.approx(expected, abs=1e-6)


def test_statistics_of_a_region_are_its_colour_position_and_size():
    images, masks = torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(1, 8, 8, dtype=torch.uint8)
    images[:, :, 4:], masks[:, 4:] = 255, 17
    statistics = region_statistics(Batch(images, masks, torch.arange(1))).reshape(19, 11)
    black, white = statistics[0], statistics[17]
    assert (black[0], white[0]) == (0, 255)
    assert black[3] < white[3] == 0.625  # mean row
    assert white[10] == pytest.approx(0.5**0.5)
    assert not statistics[5].any()


def test_logits_that_say_nothing_and_labels_that_are_all_alike_are_calibrated_to_the_shrunken_share():
    labels = np.array([[1, 0], [0, 0], [0, -1], [0, 1]], np.int8)
    slopes, offsets, _ = calibrate(np.full(labels.shape, 0.3), labels)
    assert np.allclose(expit(0.3 * slopes + offsets), [1 / 4, 1 / 3], atol=0.1)
    labels = np.zeros((60, 2), np.int8)
    labels[::3, 1] = 1
    predictions = np.random.default_rng(0).random(labels.shape) * [0.02, 1]
    slopes, offsets, _ = calibrate(predictions, labels)
    alike, mixed = expit(predictions.mean(axis=0) * slopes + offsets)
    assert 0.001 < alike < 0.02 < mixed
    classifier = SimpleNamespace(attributes=("alike", "mixed"))
    use_label_thresholds(classifier, labels)
    assert classifier.thresholds == {"alike": 0.5, "mixed": pytest.approx(20.5 / 61)}


@pytest.mark.parametrize("select", ["labels", "val"])
def test_it_beats_the_plain_probe_on_portraits_and_says_where_thresholds_come_from(shards, tmp_path, select):
    settings = ["finetune.methods=[probe, region_probe]", "finetune.runs=[{labels: 1.0, steps: 1}]"]
    config = load(settings=[*settings, f"finetune.select={select}", "evaluate.resamples=5"])
    finetune(config, shards, tmp_path / "none", tmp_path / "finetune")
    evaluate(config, shards, tmp_path / "finetune", tmp_path / "evaluate")
    means = json.loads((tmp_path / "evaluate" / "metrics.json").read_text())
    scores = [means[f"{name}-100%"]["average_precision"] for name in ("region_probe", "probe")]
    assert scores[0] > scores[1] > 0
    source = FROM_LABELS if select == "labels" else "val"
    assert f"thresholds from {source}\n" in (tmp_path / "evaluate" / "table.txt").read_text()
    for name, entry in json.loads((tmp_path / "evaluate" / "thresholds.json").read_text()).items():
        classifier = load_classifier(tmp_path / "finetune" / name / "classifier.pt")
        assert (classifier.thresholds is None, entry["thresholds_from"]) == (select == "val", source)


def prediction(fit: Regressions, new: NDArray[np.float32]) -> NDArray[np.float64]:
    """Predictions of both levels for new faces."""
    probe = RegionProbe(
        attributes=("a", "b", "c"),
        blocks=(),
        parts=tuple(("pooled", -1, *columns) for columns in SMALL),
        mean=np.zeros(5),
        scale=np.ones(5),
        block_weights=WEIGHTS,
        linear_weights=np.zeros((5, 3), np.float32),
        **fit.levels,
    )
    return probe.logits_of(new.astype(np.float64))


WEIGHTS = np.array([[0.5, 0.5], [0.5, 0.5], [1.0, 0.0]])


def drawn(faces: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Features (N, 5), and labels (N, 3) that depend on them; one of five is unknown."""
    random = np.random.default_rng(seed)
    features = random.normal(size=(faces, 5)).astype(np.float32)
    labels = (features[:, :3] + random.normal(size=(faces, 3)) > 0.3).astype(np.int8)
    return features, np.where(random.random((faces, 3)) < 0.2, -1, labels).astype(np.int8)


@given(faces=st.integers(11, 16), seed=st.integers(0, 99))
@settings(max_examples=30)
def test_the_first_level_without_a_fold_is_the_regression_on_all_other_faces(faces, seed):
    features, labels = drawn(faces, seed)
    known, y = labels[:, 0] >= 0, torch.from_numpy(labels[:, :1].astype(np.float64))
    rows, folds, everyone = torch.from_numpy(np.flatnonzero(known)), draw_folds(faces)[0], torch.arange(faces)
    kernels = Kernels(torch.from_numpy(features), torch.from_numpy(features), SMALL, WEIGHTS)
    tensors = [torch.from_numpy(fold) for fold in folds]
    first = kernel_regression._FirstLevel(kernels, everyone, tensors, len(folds), y)
    first.fit(0, rows, [0])
    kernel = kernels(0).numpy() + BIAS

    def refitted(used: NDArray[np.int64], face: int) -> float:
        system = kernel[np.ix_(used, used)] + FIRST_PENALTY * np.eye(len(used))
        return float(kernel[face, used] @ np.linalg.solve(system, labels[used, 0]))

    for fold, without in zip(folds, first.without, strict=True):
        for face in range(faces):
            used = np.setdiff1d(np.flatnonzero(known), [*fold, face])
            assert without[face, 0].item() == pytest.approx(refitted(used, face), abs=1e-5)


@pytest.mark.parametrize("references", [40, 2000])
def test_predictions_of_faces_left_out_are_those_of_a_fit_without_their_fold(references, monkeypatch):
    """Changing labels of a fold changes none of its left-out predictions, with whatever penalty."""
    monkeypatch.setattr(kernel_regression, "REFERENCES", references)
    monkeypatch.setattr(calibration, "EVERY_FOLD", references)
    monkeypatch.setattr(kernel_regression, "PENALTIES", (0.3,))
    features, labels = drawn(120, seed=1)
    fold = draw_folds(len(labels))[0][0]
    changed = labels.copy()
    changed[fold] = np.where(labels[fold] >= 0, 1 - labels[fold], -1)
    fits = [fit_regressions(torch.from_numpy(features), each, SMALL, WEIGHTS) for each in (labels, changed)]
    bases = [((each == 1).sum(0) + 0.5) / ((each >= 0).sum(0) + 1) for each in (labels, changed)]
    rows = np.isin(fits[0].seen, fold)
    assert rows.sum() == len(fold)
    (before, after) = (fit.left_out[rows] for fit in fits)
    # The intercept is centred on the share among all labels, the only thing that a fold may see of itself.
    assert np.abs(before - after).max() < 3 * np.abs(bases[0] - bases[1]).max() * FIRST_PENALTY
    assert np.abs(fits[0].levels["weights"] - fits[1].levels["weights"]).max() > 0.1


@given(seed=st.integers(0, 99))
@settings(max_examples=8)
def test_labels_drawn_at_random_are_predicted_by_chance_alone(seed):
    random = np.random.default_rng(seed)
    features = random.normal(size=(60, 5)).astype(np.float32)
    labels = (random.random((60, 40)) < 0.3).astype(np.int8)
    fit = fit_regressions(torch.from_numpy(features), labels, SMALL, np.tile([0.5, 0.5], (40, 1)))
    judged = labels[fit.seen]
    mixed = np.flatnonzero((judged.sum(0) > 0) & (judged.sum(0) < 60))
    assert np.mean([roc_auc_score(judged[:, each], fit.left_out[:, each]) for each in mixed]) < 0.54
    assert (mean_average_precision(judged, fit.left_out) or 0) < labels.mean() + 0.06
    slopes, offsets, _ = calibrate(fit.left_out, judged)
    assert (fit.left_out * slopes + offsets).std(axis=0).mean() < 0.5


def test_references_that_are_all_faces_say_what_the_exact_regression_says(monkeypatch):
    features, labels = drawn(150, seed=3)
    new, _ = drawn(50, seed=4)

    def predicted(stored: torch.Tensor) -> NDArray[np.float64]:
        return prediction(fit_regressions(stored, labels, SMALL, WEIGHTS), new)

    exact = predicted(torch.from_numpy(features))
    monkeypatch.setattr(kernel_regression, "REFERENCES", 149)
    monkeypatch.setattr(kernel_regression, "BATCH", 16)
    nearly = predicted(torch.from_numpy(features))
    assert np.abs(exact - nearly).mean() < 0.05
    assert np.abs(predicted(torch.from_numpy(features).half()) - nearly).mean() < 0.005


def test_thousands_of_faces_that_are_much_alike_are_fitted(monkeypatch):
    monkeypatch.setattr(kernel_regression, "REFERENCES", 400)
    column = np.random.default_rng(0).normal(size=(3000, 1)).astype(np.float32)
    labels = (column.repeat(3, axis=1) > 0.3).astype(np.int8)
    fit = fit_regressions(torch.from_numpy(column.repeat(5, axis=1)), labels, SMALL, WEIGHTS)
    assert fit.error < 0.05


@pytest.mark.parametrize("faces", [2, 6])
def test_an_attribute_with_one_label_leaves_the_others_finite(faces):
    features, labels = drawn(faces, seed=0)
    labels[:, 2] = -1
    labels[0, 2] = 1
    fit = fit_regressions(torch.from_numpy(features), labels, SMALL, WEIGHTS)
    slopes, offsets, loss = calibrate(fit.left_out, labels[fit.seen])
    assert np.isfinite([*fit.levels["weights"].ravel(), *fit.levels["biases"], *slopes, *offsets, loss]).all()
    assert np.allclose(prediction(fit, features)[:, 2], 0.75, atol=0.05)


def shown_in(region: int, faces: int) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Features with `PARTS`, all of them noise, and labels (N, 4), the first of which shows in one region."""
    random = np.random.default_rng(7)
    features = random.normal(size=(faces, WIDTH_OF_ALL)).astype(np.float32)
    labels = (random.random((faces, 4)) < 0.4).astype(np.int8)
    labels[:, 3] = 1
    for block, of_class, start, end in PARTS:
        if of_class == region and block == "pooled":
            features[:, start:end] += 1.5 * labels[:, :1]
    return features, labels


def test_regions_of_an_attribute_that_is_not_listed_are_learnt_from_its_labels():
    features, labels = shown_in(EYES[0], 120)
    prior = prior_weights(PARTS, [None, EYES, None, None])
    weights = learn_weights(features, labels, PARTS, [None, EYES, None, None])
    eye = PARTS.index(next(part for part in PARTS if part[:2] == ("pooled", EYES[0])))
    assert weights[0].argmax() == eye and weights[0, eye] > 2 * prior[0, eye]
    assert np.allclose(weights.sum(axis=1), 1)
    assert ((weights[1] > 0) == (prior[1] > 0)).all()
    assert np.isfinite(weights).all() and np.ptp(weights[3][prior[3] > 0]) <= np.ptp(weights[0])
    assert np.array_equal(weights, learn_weights(features, labels, PARTS, [None, EYES, None, None]))


def test_features_that_say_nothing_weigh_less_for_all_attributes():
    random = np.random.default_rng(3)
    labels = (random.random((150, 3)) < 0.5).astype(np.int8)
    parts = comparable_parts([("useful", 6, 0), ("noise", 6, 0), ("statistics", 0, 11)])
    features = random.normal(size=(150, parts[-1][3])).astype(np.float32)
    features[:, :3] += labels
    (useful, noise), *_ = learn_weights(features, labels, parts, [()] * 3)[:, :2]
    assert useful > 1.5 * noise


@given(seed=st.integers(0, 99), faces=st.integers(6, 30))
@settings(max_examples=20)
def test_the_linear_function_is_a_ridge_regression_on_the_columns_of_the_whole_face(seed, faces):
    random = np.random.default_rng(seed)
    values = random.normal(size=(faces, 12)).astype(np.float32)
    whole, targets = np.arange(12) % 3 > 0, random.normal(size=(faces, 2))
    parts = [("pooled", -int(each), column, column + 1) for column, each in enumerate(whole)]
    expected = Ridge(alpha=RIDGE * whole.sum()).fit(values[:, whole], targets).coef_.T
    weights = ridge_of(values, parts) @ (targets - targets.mean(axis=0))
    assert np.allclose(weights[whole], expected, atol=1e-4) and not weights[~whole].any()


def test_faces_without_labels_show_how_an_attribute_looks_elsewhere_in_the_face():
    """The region shows the attribute through noise; the whole face goes along with it in other columns."""
    random = np.random.default_rng(5)
    truth = (random.random((800, 2)) < 0.5).astype(np.int8)
    values = random.normal(size=(800, WIDTH_OF_ALL)).astype(np.float32)
    for block, of_class, start, end in PARTS:
        if block == "pooled" and of_class in (EYES[0], -1):
            values[:, start:end] += 0.3 * truth[:, :1]
    scores, names, same = [], ("Narrow_Eyes", "Other"), (np.zeros(1), np.ones(1))
    for faces in (20, 400):
        pool = values[:faces], ridge_of(values[:faces], PARTS)
        features = StandardisedFeatures(values[:20], *pool, (), PARTS, *same)
        probe, _ = fit_on_features(features, truth[:20], names, read_regions())
        logits = probe.logits_of(values[400:].astype(np.float64))
        scores.append(roc_auc_score(truth[400:, 0], logits[:, 0]))
    assert scores[1] > scores[0] + 0.01
