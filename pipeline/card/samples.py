"""What the samples of a set look like, from some of them, evenly spaced over the whole set."""

from types import SimpleNamespace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from common import tables
from common.classes import CLASS_COLOURS, mask_overlay
from common.errors import UserError
from common.layout import Layout
from common.members import BrokenSample, decode_cell_counts, decode_face, decode_mask, decode_metadata
from common.sampling import evenly_spaced
from common.shards import read_sample

SHOWN: Final = 12  # Faces of each kind that are shown

# Samples with their position in the tars, from 0.
RANKED: Final = """
CREATE TABLE ranked AS SELECT
    COLUMNS('^(key|shard|.*[.](offset|size))$'), coalesce(confidence, 0) AS confidence,
    row_number() OVER (ORDER BY shard, "mask.png.offset") - 1 AS position
FROM samples
"""


def summarize_samples(layout: Layout) -> SimpleNamespace:
    """Read some samples of a set, each once and by its offsets; the same set gives the same result.

    Returns:
        ``counts``: uint16 (N, G, G, 19), the per-cell class counts of some samples; ``averaged``: how many
        the averages are of; ``face`` and ``mask``: uint8 RGB (S, S, 3), the average face, and the average of
        the masks' colours; ``faces``: by kind, ``worst``, ``random`` and ``best`` by confidence, key and
        confidence of each face, and the face beside its mask, uint8 RGB (S, 2 * S, 3); ``parser``: metadata
        of one sample about its parser.

    Raises:
        UserError: there are no samples, or one is not what the manifest says.
    """
    with tables.connect() as database:
        tables.add_parquet(database, "samples", layout.require_samples())
        database.execute(RANKED)
        total = len(database.table("ranked"))
        if not total:
            raise UserError(f"{layout.samples} lists no sample, so there is nothing to show")
        worst, best = (
            database.execute(
                f"SELECT position FROM ranked ORDER BY confidence {order}, position {order} LIMIT {SHOWN}"
            ).fetchnumpy()["position"]
            for order in ("ASC", "DESC")
        )
        random = np.random.default_rng(0).choice(total, min(SHOWN, total), replace=False)
        kinds = {"worst": worst.tolist(), "random": sorted(random.tolist()), "best": best.tolist()}
        measured, averaged = (set(evenly_spaced(count, total).tolist()) for count in (2000, 400))
        displayed = set().union(*kinds.values())
        query = "SELECT * FROM ranked WHERE position IN (SELECT unnest($1)) ORDER BY position"
        rows = database.sql(query, params=[sorted(measured | averaged | displayed)]).to_arrow_table()
    counts: list[NDArray[np.uint16]] = []
    faces: dict[int, tuple[str, float, NDArray[np.uint8]]] = {}
    parser: dict[str, Any] = {}
    # Sums of integers are the same everywhere.
    face_sum, mask_sum = np.zeros((), np.int64), np.zeros((), np.int64)
    for row in rows.to_pylist():
        position = row["position"]
        try:
            members = read_sample(layout.shards, row)
            if position in measured:
                counts.append(decode_cell_counts(members["parts.npy"]))
                _check_shape(counts[-1].shape, counts[0].shape)
                parser = parser or decode_metadata(members["json"])
            if position in averaged | displayed:
                face, mask = decode_face(members["jpg"]), decode_mask(members["mask.png"])
                _check_shape(face.shape, face_sum.shape or face.shape)
                _check_shape(mask.shape, face.shape[:2])
                if position in averaged:
                    face_sum, mask_sum = face_sum + face, mask_sum + CLASS_COLOURS[mask]
                if position in displayed:
                    image = np.hstack([face, mask_overlay(face, mask)])
                    faces[position] = (row["key"], row["confidence"], image)
        except (BrokenSample, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise UserError(
                f"{layout.shards / row['shard']}: {row['key']} cannot be read ({reason}), but "
                f"{layout.samples} lists it; run `python -m pipeline.verify`"
            ) from error
    return SimpleNamespace(
        counts=np.stack(counts),
        averaged=len(averaged),
        face=np.rint(face_sum / len(averaged)).astype(np.uint8),
        mask=np.rint(mask_sum / len(averaged)).astype(np.uint8),
        faces={kind: [faces[i] for i in positions] for kind, positions in kinds.items()},
        parser={name: value for name, value in parser.items() if name.startswith("parser")},
    )


def _check_shape(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if shape != expected:
        raise BrokenSample(f"its shape is {shape}, not {expected} as that of the samples before it")
