"""What was done to the photos of a data set before they became faces, so that others can be treated alike.

The align stage writes it beside the aligned faces, ``shards.parquet`` has it as its fact
``alignment``, and every classifier carries it.
"""

from typing import Final, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from common.errors import UserError
from common.pipeline_config import Align, Ingest

FILE: Final = "recipe.json"
"""Name of the file beside the aligned faces."""

FACT: Final = "alignment"
"""Name of the fact in ``shards.parquet``."""


class Recipe(BaseModel):
    """How photos became faces.

    align: as in the configuration, but its mode is ``detect`` or ``none``, what ``auto`` came to.
    max_pixels, min_side: pictures beyond these were refused.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    align: Align
    max_pixels: int
    min_side: int

    @classmethod
    def of(cls, align: Align, ingest: Ingest, detects: bool) -> Self:
        """The recipe of a data set whose faces have to be detected, or are aligned already."""
        return cls(
            align=align.model_copy(update={"mode": "detect" if detects else "none"}),
            max_pixels=ingest.max_pixels,
            min_side=ingest.min_side,
        )

    @classmethod
    def read(cls, text: str, where: str) -> Self:
        """A recipe from its JSON text.

        Raises:
            UserError: it is none; the message names `where` it came from.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise UserError(f"{where}: no alignment that this version knows ({error})"[:300]) from error
