"""How the photos of a data set were turned into faces, so that others can be treated alike.

The align stage writes it beside the aligned faces, ``shards.parquet`` holds it in its metadata
under ``alignment``, and every classifier carries it.
"""

from typing import Final, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from common.errors import UserError
from common.pipeline_config import Align, Ingest

RECIPE_FILE: Final = "recipe.json"  # Name of the file beside the aligned faces
METADATA_KEY: Final = "alignment"  # Its key in the metadata of ``shards.parquet``


class Recipe(BaseModel):
    """How photos became faces."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    align: Align  # as in the configuration, but its mode is ``detect`` or ``none``, what ``auto`` came to
    max_pixels: int  # larger images were refused

    @classmethod
    def of(cls, align: Align, ingest: Ingest, detects: bool) -> Self:
        """The recipe of a data set whose faces have to be detected, or are aligned already."""
        mode = "detect" if detects else "none"
        return cls(align=align.model_copy(update={"mode": mode}), max_pixels=ingest.max_pixels)

    @classmethod
    def read(cls, text: str, where: str) -> Self:
        """A recipe from its JSON text.

        Raises:
            UserError: the text is not a recipe; the message names `where` it came from.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise UserError(f"{where}: not an alignment recipe of this version ({error})"[:300]) from error
