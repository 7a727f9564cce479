"""The interface of a parser's network: the format of its input, and our class for each of its classes.

An ONNX or TorchScript file comes with a class map, a YAML or JSON file whose keys docs/parsers.md explains;
all are required. `size: null` is any size. Several of the file's classes may be the same class of ours; their
probabilities are added. An output smaller than the input is enlarged bilinearly; `coarse` is torch's
``align_corners`` of that.
"""

import json
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from common.classes import CLASSES
from common.errors import UserError
from common.pipeline_config import listed_errors
from common.strict_yaml import read_yaml

# What ``parse.features_from`` may list besides files: see `common.parsing.named_networks`.
NAMED: Final = ("efficientnet_lite0", "dlib_face")
# Of the class map that lies beside a network's file, tried in this order.
SUFFIXES: Final = (".yaml", ".yml", ".json")


def _known(name: str) -> str:
    if name not in CLASSES:
        raise ValueError(f"{name!r} is not a class; known: {', '.join(CLASSES)}")
    return name


Deviation = Annotated[float, Field(gt=0)]


class InputFormat(BaseModel):
    """The keys that describe any network's input, and which of its outputs is read."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    size: Annotated[int, Field(ge=16)] | None
    channels: Literal["RGB", "BGR"]
    layout: Literal["NCHW", "NHWC"]
    scale: Annotated[float, Field(gt=0)]
    mean: tuple[float, float, float]
    std: tuple[Deviation, Deviation, Deviation]
    output: Annotated[int, Field(ge=0)]

    @property
    def outputs(self) -> tuple[int, ...]:
        """Which of the network's outputs are read."""
        return (self.output,) if isinstance(self.output, int) else self.output


class ClassMap(InputFormat):
    """The keys of a class map, as the module's docstring explains them."""

    values: Literal["logits", "probabilities"]
    coarse: Literal["centres", "corners"]
    sides: Literal["position", "network"]
    classes: Annotated[tuple[Annotated[str, AfterValidator(_known)], ...], Field(min_length=2)]


class FeatureFormat(InputFormat):
    """The keys that describe a network of features."""

    size: Annotated[int, Field(ge=16)]
    output: Annotated[int, Field(ge=0)] | tuple[Annotated[int, Field(ge=0)], ...]  # type: ignore[assignment]
    crop: Annotated[float, Field(gt=0, le=1)] = 1.0  # share of the face's side, in its middle, that is seen


Format = TypeVar("Format", bound=InputFormat)


def read_format_beside(network: Path, kind: type[Format], name: str) -> Format:
    """The description beside a network's file, called `name` in messages; it ends in one of `SUFFIXES`.

    Raises:
        UserError: there is none, it cannot be read, or a key of this `kind` is missing, unknown or ill-typed.
    """
    path = next(filter(Path.is_file, map(network.with_suffix, SUFFIXES)), None)
    if path is None:
        raise UserError(
            f"{network} has no {name}: put one at {network.with_suffix(SUFFIXES[0])} "
            "(docs/parsers.md says what is in it)"
        )
    values = read_yaml(path, f"a {name}")
    try:
        return kind.model_validate_json(json.dumps(values))
    except (ValidationError, TypeError) as error:
        problem = listed_errors(error) if isinstance(error, ValidationError) else error
        raise UserError(f"{path}: not a {name}: {problem}") from error
