"""What all sections of the configuration share: the base class, and types with a range."""

from os.path import expanduser
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0)]
LocalPath = Annotated[str, AfterValidator(expanduser)]
"""A path; ``~`` is the user's home."""
Precision = Literal["auto", "float32", "bfloat16", "float16"]
"""``auto``: what is fast on the machine, see `common.hardware`."""


class Section(BaseModel):
    """A section of the configuration: immutable, without conversions, and without unknown keys.

    The string below a field is its description.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)
