"""The findings of all checks: a count and the first examples of each kind of damage."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from pipeline.verify.agreement import Agreement

# Every check in the order of the table, and what holds if it finds nothing.
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

EXAMPLES: Final = 3  # Examples that are kept of each check, so that a report of millions stays small
Shape = tuple[str, str, tuple[int, ...]]


@dataclass
class Findings:
    """Damage by check."""

    counts: Counter[str] = field(default_factory=Counter)  # how often each check found something
    examples: dict[str, list[str]] = field(default_factory=dict)  # the first locations and reasons of each
    # by (check, name of the member, shape), how many members have the shape, and the first sample of them
    shapes: Counter[Shape] = field(default_factory=Counter)
    first: dict[Shape, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # worth knowing, but no damage
    agreement: Agreement | None = None  # of the masks with those of another set, if they are compared

    def __bool__(self) -> bool:
        return bool(self.counts)

    def add(self, check: str, examples: str | Sequence[str], count: int = 1) -> None:
        """Count findings of a check, one of `CHECKS`; `examples` is one of them or some."""
        if count:
            self.counts[check] += count
            listed = self.examples.setdefault(check, [])
            listed.extend([examples] if isinstance(examples, str) else examples)
            del listed[EXAMPLES:]

    def merge(self, other: "Findings") -> None:
        """Add the findings of another part of the set."""
        for check, count in other.counts.items():
            self.add(check, other.examples[check], count)
        self.shapes.update(other.shapes)
        self.first = other.first | self.first
        if self.agreement is not None and other.agreement is not None:
            self.agreement.merge(other.agreement)

    def add_unusual_shapes(self) -> None:
        """Count the members whose shape is not the most common one of their name."""
        usual: dict[str, tuple[int, ...]] = {}
        for (check, name, shape), count in self.shapes.most_common():
            if usual.setdefault(name, shape) != shape:
                first = self.first[check, name, shape]
                self.add(check, f"{first}.{name}: shape {shape}, most have {usual[name]}", count)

    def table(self) -> str:
        """All checks with what they found, one line each and one per example."""
        lines = [f"{'check':<14}{'found':>8}  what should hold"]
        for check, promise in CHECKS.items():
            count = self.counts[check]
            skipped = self.counts["manifests"] and check != "manifests"
            note = " (not checked: needs the manifests)" if skipped else ""
            lines.append(f"{check:<14}{'-' if skipped else f'{count:,}':>8}  {promise}{note}")
            lines += [f"{'':<24}{example}" for example in self.examples.get(check, [])]
            if count > EXAMPLES:
                lines.append(f"{'':<24}... and {count - EXAMPLES:,} more")
        return "\n".join([*lines, *self.notes])
