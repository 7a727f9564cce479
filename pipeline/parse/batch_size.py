"""Faces per forward pass: as configured on CPUs, as many as the memory holds on GPUs."""

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

Parsed = tuple[NDArray[np.uint8], NDArray[np.float32], dict[str, NDArray[np.float16]]]
FaceParser = Callable[[NDArray[np.uint8]], Parsed]
"""From faces, uint8 RGB (B, S, S, 3), to

- masks, uint8 (B, S, S), classes 0..18;
- confidences, float32 (B, 19): the mean probability of a class over the pixels that were
  given it, 0 where there are none;
- features by member of a sample, float16 (B, ...), see `pipeline.parse.features`; none unless configured.
"""

GPU_BATCH: Final = 32
"""The least that a GPU is given; never measured, since no GPU was at hand."""

LARGEST: Final = 256
"""The most that a GPU is given, whatever its memory; such a batch of 448 pixels is 0.6 GB of input."""

USED_SHARE: Final = 0.8
"""Of the memory that is free, the rest of which covers what differs between batches."""


def batch_size(configured: int, device: torch.device, parse: FaceParser, side: int, processes: int) -> int:
    """Faces per batch on a device; ``parse.batch_size`` is made for CPUs.

    Args:
        configured: that setting.
        device: where the parser is.
        parse: the parser; on CUDA it gets one batch of blank faces, whose memory is measured.
        side: of the faces in pixels.
        processes: how many share the device.
    """
    if device.type != "cuda":
        return configured if device.type == "cpu" else max(configured, GPU_BATCH)
    least = max(configured, GPU_BATCH)
    free, _ = torch.cuda.mem_get_info(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    parse(np.zeros((GPU_BATCH, side, side, 3), np.uint8))
    used = max(1, torch.cuda.max_memory_allocated(device) - before)
    return max(least, min(LARGEST, int(GPU_BATCH * USED_SHARE * free / processes / used)))


class Halving:
    """A parser that splits its batches when the GPU's memory does not hold them, and remembers the size."""

    def __init__(self, parse: FaceParser) -> None:
        self._parse, self._limit = parse, 1 << 30

    def __call__(self, faces: NDArray[np.uint8]) -> Parsed:
        """As `FaceParser`.

        Raises:
            torch.OutOfMemoryError: the memory does not hold a single face.
        """
        parts: list[Parsed] = []
        done = 0
        while done < len(faces):
            part = faces[done : done + self._limit]
            try:
                parts.append(self._parse(part))
            except torch.OutOfMemoryError:
                if len(part) == 1:
                    raise
                self._limit = len(part) // 2
                torch.cuda.empty_cache()
            else:
                done += len(part)
        masks, confidences, features = zip(*parts, strict=True)
        joined = {name: np.concatenate([each[name] for each in features]) for name in features[0]}
        return np.concatenate(masks), np.concatenate(confidences), joined
