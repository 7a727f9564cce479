"""Refused sources, counted while a run goes on; it stops when there are too many."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from common.errors import UserError


class Refusals:
    """Refused sources by reason, and the share of all sources that they may have.

    Args:
        sources: rows of ``source.parquet``.
        max_fraction: greatest share of them that may be refused.
    """

    def __init__(self, sources: int, max_fraction: float) -> None:
        self._sources, self._max_fraction = sources, max_fraction
        self._reasons: Counter[str] = Counter()

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Count quarantine rows.

        Raises:
            UserError: there are more than allowed by now, and so at the end.
        """
        row: Mapping[str, Any] = {}
        for row in rows:
            self._reasons[row["reason"]] += 1
        refused = self._reasons.total()
        if refused > self._max_fraction * self._sources:
            listed = ", ".join(f"{count:,} {reason}" for reason, count in self._reasons.most_common())
            raise UserError(
                f"stopped: {refused:,} of {self._sources:,} sources are refused so far ({listed}), more than "
                f"quarantine.max_fraction={self._max_fraction:g} allows; the last is {row.get('source')}: "
                f"{row.get('detail')}. Finished shards stay; fix the input, or allow more with "
                "--set quarantine.max_fraction=..."
            )


def table(splits: Mapping[str, int], reasons: Mapping[str, int], notices: Mapping[str, int]) -> str:
    """What a run kept and refused, a line per split, reason and notice."""
    lines = [(split, count) for split, count in splits.items()]
    lines += [(f"quarantined: {reason}", count) for reason, count in sorted(reasons.items())]
    lines += [(f"kept with a notice: {notice}", count) for notice, count in sorted(notices.items())]
    return "\n".join(f"  {name:<38}{count:>10,}" for name, count in lines)
