"""The findings of all checks: a count and the first examples of each kind of damage."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

CHECKS: Final = {
    "manifests": "the manifests can be read and have their columns",
    "sources": "sources are samples or quarantined, not both",
    "source-rows": "samples have the shard, split and labels of their source",
    "keys": "no key twice",
    "splits": "no sample in two splits",
    "identities": "no identity in two splits",
    "missing-tars": "every planned tar is there",
    "extra-tars": "every tar is in the manifests",
    "tars": "tars can be read to their end",
    "members": "tars hold the members that the manifest lists",
    "extents": "members lie where the manifest says",
    "checksums": "members have the bytes that were written",
    "faces": "faces decode, all to one size",
    "masks": "masks decode to classes 0 to 18 at their face's size",
    "cell-counts": "class counts decode to those of the mask",
    "features": "features decode to finite numbers of one shape",
    "metadata": "metadata decode and agree with the manifest",
}
"""Every check in the order of the table, and what holds if it finds nothing."""

EXAMPLES: Final = 3
"""Examples that are kept of each check, so that a report of millions stays small."""


@dataclass
class Findings:
    """Damage by check.

    Attributes:
        counts: how often each check found something.
        examples: the first locations and reasons of each check, at most `EXAMPLES`.
        skipped: checks that could not be made, and why.
        notes: worth knowing, but no damage.
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.counts)

    def add(self, check: str, example: str, count: int = 1) -> None:
        """Count a finding of `check`, which must be one of `CHECKS`."""
        self.add_all(check, [example], count)

    def add_all(self, check: str, examples: Iterable[str], count: int) -> None:
        """Count `count` findings of which `examples` are some; nothing for a count of 0."""
        if check not in CHECKS:
            raise KeyError(check)
        if count:
            self.counts[check] += count
            listed = self.examples.setdefault(check, [])
            listed.extend(list(examples)[: EXAMPLES - len(listed)])

    def merge(self, other: "Findings") -> None:
        """Take over the findings of another part of the set."""
        for check, count in other.counts.items():
            self.add_all(check, other.examples[check], count)
        self.skipped.update(other.skipped)

    def table(self) -> str:
        """All checks with what they found, one line each and one per example."""
        lines = [f"{'check':<14}{'found':>8}  what should hold"]
        for check, promise in CHECKS.items():
            count = self.counts[check]
            number = "-" if check in self.skipped and not count else f"{count:,}"
            note = f" (not checked: {self.skipped[check]})" if check in self.skipped else ""
            lines.append(f"{check:<14}{number:>8}  {promise}{note}")
            lines += [f"{'':<24}{example}" for example in self.examples.get(check, [])]
            if count > EXAMPLES:
                lines.append(f"{'':<24}... and {count - EXAMPLES:,} more")
        return "\n".join([*lines, *self.notes])
