"""The steps of a parse worker side by side, and batches that a GPU's memory does not hold."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from common.parsing.parser import Parsed, SplitOnMemoryError
from pipeline.runner.prefetch import ahead


def test_a_step_is_ahead_by_no_more_than_its_depth_and_keeps_the_order() -> None:
    made: list[int] = []
    lead = []
    items = ahead((made.append(number) or number for number in range(20)), 3)  # type: ignore[func-returns-value]
    for expected, item in enumerate(items):
        assert item == expected
        lead.append(len(made) - expected)
    assert made == list(range(20))
    assert max(lead) <= 4


def test_an_error_of_a_step_comes_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield 0
        raise OSError("the disk is full")

    step = ahead(items(), 2)
    assert next(step) == 0
    with pytest.raises(OSError, match="the disk is full"):
        next(step)


def test_a_step_that_is_given_up_leaves_no_thread() -> None:
    before = threading.active_count()
    step = ahead(iter(range(100)), 2)
    next(step)
    step.close()
    assert threading.active_count() == before


class FullGpu:
    """A stand-in for a parser on a GPU that holds three faces."""

    def __init__(self, room: int) -> None:
        self.room, self.batches = room, list[int]()

    def __call__(self, faces: np.ndarray) -> Parsed:
        self.batches.append(len(faces))
        if len(faces) > self.room:
            raise torch.OutOfMemoryError
        return (
            faces[..., 0],
            faces[:, 0, 0].astype(np.float32),
            {"pooled.npy": faces[:, 0, 0].astype(np.float16)},
        )


def test_a_batch_that_does_not_fit_is_halved_once_and_for_all() -> None:
    gpu = FullGpu(room=3)
    parse = SplitOnMemoryError(gpu)
    faces = np.arange(10 * 4 * 4 * 3, dtype=np.uint8).reshape(10, 4, 4, 3)
    masks, confidences, features = parse(faces)
    assert np.array_equal(masks, faces[..., 0])
    assert len(confidences) == len(features["pooled.npy"]) == 10
    assert gpu.batches == [10, 5, 2, 2, 2, 2, 2]
    parse(faces[:2])
    assert gpu.batches[-1] == 2


def test_a_face_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        SplitOnMemoryError(FullGpu(room=0))(np.zeros((4, 4, 4, 3), np.uint8))
