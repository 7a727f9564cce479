"""The audit of a set's labels: its table of issues, and the page to check the most suspected labels on."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from common.config import Config
from common.errors import UserError
from common.files import replacing
from common.layout import SPLITS, Layout
from training.data.samples import Samples, read_samples
from training.label.issues import contradicted, disagreeing, label_quality, self_confidence
from training.label.left_out import FEWEST, left_out_logits
from training.label.page import sources_of, write_page
from training.methods.method import regions_of
from training.methods.region_probe import StandardisedFeatures, read_standardised

TABLE: Final = "label_issues.parquet"
PAGE: Final = "label_issues.html"

NEAR: Final = 0.9
"""Cosine of the standardised features of two whole faces from which they count as one photo."""

BATCH: Final = 1000

SCHEMA: Final = pa.schema(
    [
        ("issue", pa.string()),
        ("key", pa.string()),
        ("source", pa.string()),
        ("split", pa.string()),
        ("identity", pa.string()),
        ("attribute", pa.string()),
        ("label", pa.int8()),
        ("self_confidence", pa.float64()),
        ("label_quality", pa.float64()),
        ("other", pa.string()),
    ]
)
"""Of `TABLE`. ``issue`` is ``contradicted`` by predictions, ``disagreeing`` with other photos of the person,
or ``near_duplicate`` of the sample ``other`` in another split."""


def audit(config: Config, layout: Layout, output: Path, count: int) -> None:
    """Write `TABLE`, the issues of all labels, the lowest quality first, and `PAGE` with the first of them.

    Args:
        config: the regions of attributes, and the cache of remote shards.
        layout: the shards.
        output: folder.
        count: of labels on the page, at most.

    Raises:
        UserError: too few faces have labels, or the shards hold no features.
    """
    of_split = [read_samples(layout, (split,), config.stream.folder).labelled() for split in SPLITS]
    faces = read_samples(layout, SPLITS, config.stream.folder).labelled()
    if len(faces) < FEWEST:
        raise UserError(f"{layout.shards}: {len(faces)} faces have labels; an audit needs {FEWEST} or more")
    splits = {key: split for split, some in zip(SPLITS, of_split, strict=True) for key in some.keys}
    features, labels, names = (
        read_standardised(faces, faces, config.stream),
        faces.attributes,
        faces.attribute_names,
    )
    _, logits = left_out_logits(features, labels, names, faces.identities, regions_of(config.finetune))
    confidence = self_confidence(logits, labels)
    quality = label_quality(logits, labels, faces.identities)
    sources = sources_of(layout)

    def row(issue: str, face: int, **more: Any) -> dict[str, Any]:
        key = faces.keys[face]
        about = {"split": splits[key], "identity": faces.identities[face]}
        return {"issue": issue, "key": key, "source": sources[key], **about, **more}

    rows, pairs = [], []
    wrong = {
        "contradicted": contradicted(confidence, labels),
        "disagreeing": disagreeing(labels, faces.identities),
    }
    for flat in np.argsort(np.where(np.isnan(quality), np.inf, quality), axis=None, kind="stable").tolist():
        face, column = divmod(flat, len(names))
        kinds = [issue for issue, issues in wrong.items() if issues[face, column]]
        pairs += [(face, column)] if kinds else []
        for issue in kinds:
            about = {"attribute": names[column], "label": int(labels[face, column])}
            scores = {"self_confidence": confidence[face, column], "label_quality": quality[face, column]}
            rows.append(row(issue, face, **about, **scores))
    duplicates = near_duplicates(features, np.array([splits[key] for key in faces.keys]))
    rows += [row("near_duplicate", face, other=faces.keys[other]) for face, other in duplicates]
    with replacing(output / TABLE) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), temporary, compression="zstd")
    _write_suspected(config, layout, faces, logits, pairs[:count], output / PAGE)
    contradictions, disagreements = (int(issues.sum()) for issues in wrong.values())
    print(
        f"audit: of {int((labels >= 0).sum()):,} labels of {len(faces):,} faces, {contradictions:,} "
        f"contradict predictions, {disagreements:,} other photos of the person; {len(duplicates):,} "
        f"near-duplicates across splits; {output / TABLE}"
    )
    if pairs:
        print(f"audit: check the {len(pairs[:count]):,} most suspected labels on {output / PAGE}")


def near_duplicates(features: StandardisedFeatures, splits: NDArray[np.str_]) -> list[tuple[int, int]]:
    """Pairs of faces in two splits that are nearly the same picture, the smaller position first."""
    columns = np.concatenate(
        [np.arange(start, end) for _, region, start, end in features.parts if region < 0]
    )
    values = features.values[:, columns].astype(np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True).clip(1e-9)
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(values), BATCH):
        near = values[start : start + BATCH] @ values.T >= NEAR
        near &= splits[start : start + BATCH, None] != splits
        pairs += [(start + a, b) for a, b in np.argwhere(near).tolist() if start + a < b]
    return pairs


def _write_suspected(
    config: Config,
    layout: Layout,
    faces: Samples,
    logits: NDArray[np.float64],
    pairs: list[tuple[int, int]],
    page: Path,
) -> None:
    """The page of suspected labels, with the predictions that contradict them."""
    suspects = list(dict.fromkeys(face for face, _ in pairs))
    position = {face: number for number, face in enumerate(suspects)}
    on_page = [(position[face], column) for face, column in pairs]
    guesses = torch.from_numpy(logits[suspects]).sigmoid().numpy()
    headline = f"{len(pairs):,} labels that may be wrong"
    write_page(
        page, layout, faces.take(np.array(suspects, np.int64)), config.stream, headline, guesses, on_page
    )
