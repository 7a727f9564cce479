"""Random numbers: seeds of a whole run, and of one micro-batch."""

import hashlib
import random

import numpy as np
import torch


def set_seed(seed: int) -> None:
    """Seed the global generators of Python, NumPy and PyTorch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def keyed_generator(*key: int | str) -> torch.Generator:
    """A CPU generator that depends on `key` alone, such as (seed, step, micro-batch, task).

    Since nothing else is random, a run can be resumed at any step from the step's number alone.
    """
    return torch.Generator().manual_seed(_hash(*key))


def seed_micro_batch(seed: int, step: int, micro_batch: int) -> None:
    """Seed what a network draws itself in one micro-batch of a step, such as dropout."""
    torch.manual_seed(_hash(seed, step, micro_batch))


def _hash(*key: int | str) -> int:
    text = " ".join(map(str, key))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
