"""Evenly spaced positions: as many as wanted, each once, from the first to the last."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from common.sampling import evenly_spaced


@given(st.integers(1, 300), st.integers(0, 1000))
def test_positions_are_distinct_and_reach_from_end_to_end(count: int, total: int) -> None:
    positions = evenly_spaced(count, total)
    assert len(positions) == min(count, total)
    assert (np.diff(positions) > 0).all()
    if total and count > 1:
        assert (positions[0], positions[-1]) == (0, total - 1)
    if len(positions) > 1:
        assert np.ptp(np.diff(positions)) <= 1
