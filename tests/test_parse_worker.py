"""The steps of a parse worker side by side, and batches that a GPU's memory does not hold."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from pipeline.parse.batch_size import Halving, Parsed, batch_size
from pipeline.parse.overlap import ahead


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
    parse = Halving(gpu)
    faces = np.arange(10 * 4 * 4 * 3, dtype=np.uint8).reshape(10, 4, 4, 3)
    masks, confidences, features = parse(faces)
    assert np.array_equal(masks, faces[..., 0])
    assert len(confidences) == len(features["pooled.npy"]) == 10
    assert gpu.batches == [10, 5, 2, 2, 2, 2, 2]
    parse(faces[:2])
    assert gpu.batches[-1] == 2


@pytest.mark.parametrize(
    ("free", "processes", "expected"),
    [
        pytest.param(8e9, 1, 200, id="as many as fit"),
        pytest.param(8e9, 4, 50, id="a share for each of four processes"),
        pytest.param(80e9, 1, 256, id="no more than keep it busy"),
        pytest.param(0.5e9, 1, 32, id="no fewer than the least, which is halved if it does not fit"),
    ],
)
def test_a_gpu_gets_as_many_faces_as_its_memory_holds(
    free: float, processes: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Stand-in: a GPU on which a face takes 32 MB.
    gpu = FullGpu(room=1000)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free), 10**11))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 10**8)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(
        torch.cuda, "max_memory_allocated", lambda device: 10**8 + 32_000_000 * gpu.batches[-1]
    )
    assert batch_size(4, torch.device("cuda"), gpu, 64, processes) == expected
    assert gpu.batches == [32]


def test_a_cpu_gets_what_is_configured() -> None:
    gpu = FullGpu(room=1000)
    assert batch_size(4, torch.device("cpu"), gpu, 64, 1) == 4
    assert gpu.batches == []


def test_a_face_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        Halving(FullGpu(room=0))(np.zeros((4, 4, 4, 3), np.uint8))
