"""The audit of a set's labels: its table of issues, and the page to check the most suspected labels on."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from common import manifest
from common.config import Config
from common.errors import UserError
from common.files import replacing
from common.layout import SPLITS, Layout
from training.data.samples import read_samples
from training.label.issues import contradicted, disagreeing, label_quality, self_confidence
from training.label.left_out import FEWEST, left_out_logits
from training.label.page import write_page
from training.methods.method import regions_of
from training.methods.region_probe import StandardisedFeatures, read_standardised

TABLE: Final = "label_issues.parquet"
PAGE: Final = "label_issues.html"

NEAR: Final = 0.9
"""Cosine of the standardised features of two whole faces from which they count as one photo."""

BATCH: Final = 1000

TEXTS: Final = ("issue", "key", "source", "split", "identity", "attribute")
NUMBERS: Final = {"label": pa.int8(), "self_confidence": pa.float64(), "label_quality": pa.float64()}
SCHEMA: Final = pa.schema(
    [*((name, pa.string()) for name in TEXTS), *NUMBERS.items(), ("other", pa.string())]
)
"""Of `TABLE`. ``issue`` is ``contradicted`` by predictions, ``disagreeing`` with other photos of the person,
or ``near_duplicate`` of the sample ``other`` in another split."""


def audit(config: Config, layout: Layout, output: Path, count: int) -> None:
    """Write `TABLE`, the issues of all labels, the lowest quality first, and `PAGE` with the first `count`.

    Raises:
        UserError: too few faces have labels, or the shards hold no features.
    """
    faces = read_samples(layout, SPLITS, config.stream.folder).labelled()
    if len(faces) < FEWEST:
        raise UserError(f"{layout.shards}: {len(faces)} faces have labels; an audit needs {FEWEST} or more")
    features, labels = read_standardised(faces, faces, config.stream), faces.attributes
    names = faces.attribute_names
    _, logits = left_out_logits(features, labels, names, faces.identities, regions_of(config.finetune))
    confidence = self_confidence(logits, labels)
    quality = label_quality(logits, labels, faces.identities)
    listed = {row["key"]: row for row in manifest.read(layout.samples, ["key", "source", "split"]).rows()}

    def row(issue: str, face: int, **more: Any) -> dict[str, Any]:
        return {"issue": issue, "identity": faces.identities[face], **listed[faces.keys[face]], **more}

    rows, pairs = [], []
    wrong = {"contradicted": contradicted(confidence, labels)}
    wrong["disagreeing"] = disagreeing(labels, faces.identities)
    for flat in np.argsort(np.where(np.isnan(quality), np.inf, quality), axis=None, kind="stable").tolist():
        face, column = divmod(flat, len(names))
        kinds = [issue for issue, issues in wrong.items() if issues[face, column]]
        pairs += [(face, column)] if kinds else []
        for issue in kinds:
            about = {"attribute": names[column], "label": int(labels[face, column])}
            scores = {"self_confidence": confidence[face, column], "label_quality": quality[face, column]}
            rows.append(row(issue, face, **about, **scores))
    duplicates = near_duplicates(features, np.array([listed[key]["split"] for key in faces.keys]))
    rows += [row("near_duplicate", face, other=faces.keys[other]) for face, other in duplicates]
    with replacing(output / TABLE) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), temporary, compression="zstd")
    pairs = pairs[:count]
    suspects = {face: number for number, face in enumerate(dict.fromkeys(face for face, _ in pairs))}
    chosen = np.array(list(suspects), np.int64)
    headline, on_page = f"{len(pairs):,} labels that may be wrong", [(suspects[a], b) for a, b in pairs]
    guesses = torch.from_numpy(logits[chosen]).sigmoid().numpy()
    write_page(output / PAGE, layout, faces.take(chosen), config.stream, headline, guesses, on_page)
    contradictions, disagreements = (int(issues.sum()) for issues in wrong.values())
    print(
        f"audit: of {int((labels >= 0).sum()):,} labels of {len(faces):,} faces, {contradictions:,} "
        f"contradict predictions, {disagreements:,} other photos of the person; {len(duplicates):,} "
        f"near-duplicates across splits; {output / TABLE}"
    )
    if pairs:
        print(f"audit: check the {len(pairs):,} most suspected labels on {output / PAGE}")


def near_duplicates(features: StandardisedFeatures, splits: NDArray[np.str_]) -> list[tuple[int, int]]:
    """Pairs of faces in two splits that are nearly the same picture, the smaller position first."""
    whole = [features.values[:, start:end] for _, region, start, end in features.parts if region < 0]
    values = np.hstack(whole).astype(np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True).clip(1e-9)
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(values), BATCH):
        near = values[start : start + BATCH] @ values.T >= NEAR
        near &= splits[start : start + BATCH, None] != splits
        pairs += [(start + a, b) for a, b in np.argwhere(near).tolist() if start + a < b]
    return pairs
