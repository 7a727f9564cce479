"""Read configuration files and ``--set`` flags, and merge them strictly: unknown keys are errors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from common.errors import UserError
from common.strict_yaml import parse_yaml, read_yaml


def read_mapping(file: Path) -> dict[str, Any]:
    """The sections in a YAML file.

    Raises:
        UserError: the file cannot be read, or is not a YAML mapping.
    """
    values = read_yaml(file, "settings")
    if not isinstance(values, dict):
        raise UserError(f"{file}: a mapping of sections was expected, as in params.yaml")
    return values


def read_setting(setting: str) -> dict[str, Any]:
    """``a.b=value`` as a nested mapping; the value is YAML.

    Raises:
        UserError: it is not written so.
    """
    key, equals, text = setting.partition("=")
    if not equals:
        raise UserError(f"--set {setting}: write it as key=value, such as parse.size=512")
    nested = parse_yaml(text, f"--set {setting}")
    for name in reversed(key.strip().split(".")):
        nested = {name: nested}
    return dict(nested)


def merge(
    into: dict[str, Any], changes: Mapping[str, Any], schema: type[BaseModel] | None, path: str, where: str
) -> None:
    """Replace single values of `into` by those of `changes`.

    Args:
        into: the values so far, changed in place.
        changes: the values that replace them, nested alike.
        schema: the section that `into` belongs to, whose keys are the only ones allowed; None for an
            open mapping, a field whose type is a plain mapping, which may be given any key.
        path: of `into`, with a dot at the end.
        where: the file or flag that `changes` come from.

    Raises:
        UserError: a key is unknown, or a section would be replaced by a value.
    """
    for key, value in changes.items():
        if schema is not None and key not in schema.model_fields:
            known = ", ".join(sorted(schema.model_fields))
            raise UserError(f"{where}: unknown key {path}{key}; known here: {known}")
        if isinstance(into.get(key), dict):
            if not isinstance(value, Mapping):
                raise UserError(f"{where}: {path}{key} is a section, not a value")
            field = schema.model_fields[key].annotation if schema is not None else None
            section = field if isinstance(field, type) and issubclass(field, BaseModel) else None
            merge(into[key], value, section, f"{path}{key}.", where)
        else:
            into[key] = value
