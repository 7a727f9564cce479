"""The three manifests: every input, every sample, and everything that was refused.

``source.parquet`` has a row per input, ``shards.parquet`` a row per sample and ``quarantine.parquet`` a row
(source, reason, detail) per input that did not become one; sources = sources with a sample + quarantined.
``notices`` are codes of what is worth knowing about an input that was kept, sorted and separated by spaces,
or null. Attributes are nullable int8 columns (0, 1, null) named as in the data set.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import UserError
from common.members import MEMBERS
from common.storage import Address, TransientError, is_file, is_local, store_errors

SOURCE_FIELDS: Final = pa.schema(
    {
        **dict.fromkeys(("source", "key", "shard", "split", "identity", "sha256"), pa.string()),
        "bytes": pa.int64(),
        **dict.fromkeys(("reason", "detail", "notices"), pa.string()),
    }
)

# Columns of each member of a sample, named ``<member>.<column>``.
MEMBER_COLUMNS: Final = ("offset", "size", "crc32")

SAMPLE_FIELDS: Final = pa.schema(
    {
        **dict.fromkeys(("key", "shard", "split", "status", "notices", "source", "identity"), pa.string()),
        **dict.fromkeys(("box_score", "confidence"), pa.float32()),
        **{f"{name}.{what}": pa.int64() for name in MEMBERS for what in MEMBER_COLUMNS},
    }
)

QUARANTINE_FIELDS: Final = pa.schema(dict.fromkeys(("source", "reason", "detail"), pa.string()))


def sample_fields(features: Iterable[str]) -> pa.Schema:
    """`SAMPLE_FIELDS`, and the columns of those `FEATURE_MEMBERS` that the samples have."""
    columns = (pa.field(f"{name}.{what}", pa.int64()) for name in features for what in MEMBER_COLUMNS)
    return pa.schema([*SAMPLE_FIELDS, *columns])


# Key of the metadata of ``shards.parquet`` that lists, one a line, what the parser computed in.
NUMERICS: Final = "numerics"

# Columns of predictions before the probabilities, which have the attributes' names. ``face`` counts from 1,
# ``reason`` and ``detail`` say why a photo has no face, and the box is in pixels of the upright photo.
PREDICTION_COLUMNS: Final = {
    "photo": pa.string(),
    "face": pa.int64(),
    **dict.fromkeys(("reason", "detail"), pa.string()),
    **dict.fromkeys(("left", "top", "right", "bottom", "score"), pa.float64()),
    **dict.fromkeys(("present", "unsure"), pa.list_(pa.string())),
}


@dataclass(frozen=True)
class Manifest:
    """A manifest in memory: a row per source or sample."""

    table: pa.Table
    columns: tuple[str, ...]  # the names of all columns of its file, whichever were read
    attributes: tuple[str, ...]  # and of those that are attributes, in the order of the data set
    metadata: Mapping[str, str]  # strings about the whole, such as the data set's name

    def rows(self) -> list[dict[str, Any]]:
        """The rows as dictionaries."""
        return self.table.to_pylist()


def with_attributes(fields: pa.Schema, attributes: tuple[str, ...]) -> pa.Schema:
    """One of the three schemas of this module with a column per attribute."""
    return pa.schema([*fields, *(pa.field(name, pa.int8()) for name in attributes)])


def read(path: Address, columns: list[str] | None = None) -> Manifest:
    """Read a manifest, or these columns of it; with an empty list only the footer is read.

    Raises:
        UserError: the file is missing or is not a manifest.
    """
    if not is_file(path):
        raise UserError(f"{path} is missing; `python -m pipeline.parse --input FOLDER` makes it")
    try:
        with store_errors(path), path.open("rb") as stream:
            parquet = pq.ParquetFile(stream)
            table = parquet.read(columns=columns)
            stored = parquet.metadata.metadata or {}
    except TransientError:
        raise
    except (pa.ArrowException, OSError) as error:
        if not is_local(path):  # perhaps a page of a proxy
            raise TransientError(f"{path}: the store answers with no readable manifest ({error})") from error
        raise UserError(f"{path}: no readable manifest ({error}); delete it and run the pipeline") from error
    metadata = {
        key.decode(): value.decode() for key, value in stored.items() if not key.startswith(b"ARROW:")
    }
    names = metadata.pop("attributes", "")
    attributes = tuple(names.split("\n")) if names else ()
    return Manifest(table, tuple(parquet.schema_arrow.names), attributes, metadata)
