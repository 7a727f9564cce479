"""The samples that the results rest on, by split; what they look like is on the data card."""

from collections.abc import Mapping
from dataclasses import dataclass

from common import manifest
from common.layout import SPLITS, Layout
from common.page.formats import number
from training.data.samples import Samples, read_samples


@dataclass(frozen=True)
class Dataset:
    """A set by its manifests.

    Attributes:
        name: of the data set. root: the folder of photos.
        splits: the samples of each split that has some.
    """

    name: str
    root: str
    splits: Mapping[str, Samples]

    def faces(self) -> int:
        """Samples of all splits."""
        return sum(map(len, self.splits.values()))

    def labelled(self, *splits: str) -> int:
        """Samples of `splits` with a known attribute."""
        return sum(len(self.splits[name].labelled()) for name in splits if name in self.splits)

    def rows(self) -> list[list[str]]:
        """Rows of the table: split, faces, faces with labels, identities, shards."""
        rows = []
        for name, samples in self.splits.items():
            people = len(set(samples.identities) - {None}) or None
            counts = len(samples), self.labelled(name), people, len(set(samples.shards))
            rows.append([name, *map(number, counts)])
        return rows


def read_dataset(layout: Layout, name: str, root: str) -> Dataset:
    """Read the manifests; `name` and `root` hold where they do not say.

    Raises:
        UserError: there are no finished shards.
    """
    splits = {split: read_samples(layout, (split,)) for split in SPLITS}
    files = [file for file in (layout.samples, layout.source) if file.is_file()]
    metadata = {key: value for file in files for key, value in manifest.read(file, []).metadata.items()}
    known = {split: samples for split, samples in splits.items() if len(samples)}
    return Dataset(metadata.get("dataset", name), metadata.get("root", root), known)
