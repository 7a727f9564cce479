"""The region probe: exact leave-one-out predictions, and distances by an attribute's own regions first."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.classes import CLASSES
from common.config import load
from common.errors import UserError
from common.layout import Layout
from training.data.loader import Batch
from training.data.samples import read_samples
from training.engine.average_precision import mean_average_precision
from training.methods.kernel_regression import calibrate, fit_attributes, ridge
from training.methods.runs import finetune
from training.models.classifier import load_classifier
from training.models.inference import sample_probabilities
from training.models.region_probe import POWER, WIDTH, RegionKernels, read_regions, region_classes
from training.models.stored_features import region_statistics

SETTINGS = ["finetune.methods=[probe, region_probe]", "finetune.runs=[{labels: 1.0, steps: 1}]"]


@given(
    faces=st.integers(3, 12), columns=st.integers(1, 12), penalty=st.floats(0.01, 10), seed=st.integers(0, 99)
)
@settings(deadline=None)
def test_predictions_of_a_face_left_out_are_those_of_a_fit_without_it(
    faces: int, columns: int, penalty: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(faces, columns, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 2, (faces, 2), generator=generator).double()
    (solution,) = ridge(features, targets, [penalty], torch.arange(faces))
    left_out = solution.left_out
    for face in range(faces):
        others = torch.arange(faces) != face
        (refit,) = ridge(features[others], targets[others], [penalty], torch.arange(0))
        assert torch.allclose(left_out[face], features[face] @ refit.weights + refit.biases, atol=1e-6)


COLUMNS = 10 + 19 * 64 + 19 * 11
BLOCKS = ("pooled", "statistics")
EYES = (CLASSES.index("l_eye"), CLASSES.index("r_eye"))


def changed(columns: slice) -> NDArray[np.float64]:
    """A face that differs from one of zeros by one in these of the features, float64 (1, D)."""
    face = np.zeros((1, COLUMNS))
    face[0, columns] = 1
    return face


def distance(face: NDArray[np.float64], classes: tuple[int, ...]) -> float:
    """Squared distance of a face to one of zeros, from its kernel."""
    return distance_of(RegionKernels(face, np.zeros((1, COLUMNS), np.float32), BLOCKS)(classes))


def distance_of(kernel: torch.Tensor) -> float:
    """The squared distance of two faces whose kernel has this one value."""
    return float(WIDTH**2 * (-kernel.log().item()) ** (2 / POWER))


def test_an_attributes_regions_have_the_greater_share_of_a_distance() -> None:
    (classes,) = region_classes(["Narrow_Eyes"], read_regions())
    assert classes == EYES
    everything, eyes = changed(slice(None)), changed(slice(10 + 64 * EYES[0], 10 + 64 * (EYES[1] + 1)))
    statistics = changed(slice(10 + 19 * 64, COLUMNS))
    assert distance(everything, EYES) == pytest.approx(1)
    assert 0.35 < distance(eyes, EYES) < 0.4
    assert distance(statistics, EYES) == pytest.approx(0.35)
    assert distance(everything, ()) == pytest.approx(1)
    assert distance(statistics, ()) == 0


def test_predictions_of_all_attributes_have_their_share_of_a_distance() -> None:
    same, other = np.zeros((1, COLUMNS)), np.ones((1, 2))
    kernels = RegionKernels(same, same.astype(np.float32), BLOCKS)
    stacked = kernels.stacked(other, np.zeros((1, 2), np.float32), 0.25)
    assert distance_of(stacked(EYES)) == pytest.approx(0.25)
    assert distance_of(kernels(EYES)) == 0


def test_statistics_of_a_region_are_its_colour_position_and_size() -> None:
    images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    images[:, :, 4:] = 255
    masks = torch.zeros(1, 8, 8, dtype=torch.uint8)
    masks[:, 4:] = 17
    batch = Batch(images, masks, torch.arange(1))
    statistics = region_statistics(batch).reshape(19, 11)
    black, white = statistics[0], statistics[17]
    assert (black[0], white[0]) == (0, 255)
    assert black[3] < white[3] == 0.625  # mean row
    assert white[10] == pytest.approx(0.5**0.5)
    assert not statistics[5].any()


def test_logits_that_say_nothing_are_calibrated_to_the_share_of_positives() -> None:
    labels = np.array([[1, 0], [0, 0], [0, -1], [0, 1]], np.int8)
    slopes, offsets, _ = calibrate(np.full(labels.shape, 0.3), labels)
    probabilities = 1 / (1 + np.exp(-(0.3 * slopes + offsets)))
    assert np.allclose(probabilities, [1 / 4, 1 / 3], atol=0.1)


@pytest.mark.parametrize("select", ["val", "crossval", "last"])
def test_it_beats_the_plain_probe_on_portraits_whatever_selects_its_penalty(
    shards: Layout, tmp_path: Path, select: str
) -> None:
    config = load(settings=[*SETTINGS, f"finetune.select={select}"])
    finetune(config, shards, tmp_path / "none", tmp_path)
    test, scores = read_samples(shards, ("test",)), []
    for name in ("probe", "region_probe"):
        classifier = load_classifier(tmp_path / f"{name}-100%" / "classifier.pt")
        probabilities = sample_probabilities(classifier, test, config.stream, 64, "test")
        scores.append(mean_average_precision(test.attributes, probabilities))
    assert scores[1] is not None
    assert scores[0] is not None
    assert scores[1] > scores[0]


def test_an_attribute_with_one_label_leaves_the_others_finite() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(6, COLUMNS))
    labels = np.array([[0, 1, 0, 1, 1, 0], [1, *[-1] * 5]], np.int8).T
    faces = np.arange(6)
    kernels = RegionKernels(features, features.astype(np.float32), BLOCKS)
    (fit,) = fit_attributes(kernels, labels, faces, [(), EYES], [1.0], faces)
    slopes, offsets, loss = calibrate(fit.left_out, labels)
    assert np.isfinite([*fit.weights.ravel(), *fit.biases, *slopes, *offsets, loss]).all()
    assert np.array_equal(fit.left_out[:, 1], np.full(6, 0.75))


def kernel_ridge(
    kernel: NDArray[np.float64], labels: NDArray[np.int8], used: NDArray[np.int64], penalty: float
) -> NDArray[np.float64]:
    """Predictions for all faces of the kernel regression with a free bias on those that are `used`."""
    count = len(used)
    system = np.ones((count + 1, count + 1))
    system[:count, :count] = kernel[np.ix_(used, used)] + penalty * np.eye(count)
    system[count, count] = 0
    solution = np.linalg.solve(system, np.append(labels[used], 0))
    return kernel[:, used] @ solution[:count] + solution[count]


@given(
    faces=st.integers(4, 12),
    unknown=st.integers(0, 2),
    share=st.sampled_from((0.0, 0.5)),
    seed=st.integers(0, 99),
)
@settings(deadline=None)
def test_with_all_faces_as_references_it_is_the_kernel_regression_of_each_attribute_alone(
    faces: int, unknown: int, share: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    features = random.normal(size=(faces, COLUMNS)).astype(np.float32).astype(np.float64)
    labels = random.integers(0, 2, (faces, 3)).astype(np.int8)
    labels[:unknown, 2] = -1
    rows, classes = np.array([0, faces // 2, faces - 1]), [(), EYES, EYES]
    predicted = random.normal(size=(faces, 2)).astype(np.float32)
    of_features = RegionKernels(features, features.astype(np.float32), BLOCKS)
    kernels = of_features.stacked(predicted.astype(np.float64), predicted, share)
    fits = fit_attributes(kernels, labels, np.arange(faces), classes, (0.1, 1.0), rows)
    for penalty, fit in zip((0.1, 1.0), fits, strict=True):
        for attribute, regions in enumerate(classes):
            known = np.flatnonzero(labels[:, attribute] >= 0)
            kernel, known_labels = kernels(regions).numpy(), labels[:, attribute]
            predictions = kernel @ fit.weights[:, attribute] + fit.biases[attribute]
            assert np.allclose(predictions, kernel_ridge(kernel, known_labels, known, penalty), atol=1e-4)
            left_out = predictions.copy()
            for face in known:
                others = known[known != face]
                left_out[face] = kernel_ridge(kernel, known_labels, others, penalty)[face]
            assert np.allclose(fit.left_out[:, attribute], left_out[rows], atol=1e-4)


def test_an_unknown_region_is_named(tmp_path: Path) -> None:
    file = tmp_path / "regions.yaml"
    file.write_text("Male: [beard]\n")
    with pytest.raises(UserError, match="Male has region 'beard'; known are background"):
        read_regions(file)
