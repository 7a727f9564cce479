"""YAML that users write, read strictly: a slip is an error instead of another value.

Errors are a key that occurs twice, an alias (a few lines of them expand to gigabytes), and an integer such as
``010``, which YAML 1.1 reads as octal. ``1e-3`` is a number, which YAML 1.1 reads as text.
"""

import re
from pathlib import Path
from typing import Any, Final

import yaml

from common.errors import UserError

INT: Final = "tag:yaml.org,2002:int"
FLOAT: Final = "tag:yaml.org,2002:float"


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {  # noqa: RUF012 - as PyYAML's own
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in (INT, FLOAT)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(
                problem="aliases are not allowed", problem_mark=self.peek_event().start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if (name := f"{key.tag} {key.value}") in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value} is there twice", problem_mark=key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: Any) -> int:
        if re.match(r"[-+]?0\d", node.value):
            problem = f"write {node.value} without the zeros before it, or in quotes if it is a name"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return int(node.value)


_Loader.add_implicit_resolver(INT, re.compile(r"[-+]?\d+$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    FLOAT,
    re.compile(r"[-+]?(?:\.\d+|\d+\.?\d*)(?:[eE][-+]?\d+)?$|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"),
    list("-+.0123456789"),
)
_Loader.add_constructor(INT, _Loader.construct_yaml_int)


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text.

    Raises:
        UserError: it is not YAML, or has one of the slips above; names `where` and the line.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark and "\n" in text else ""
        raise UserError(f"{where}{line}: {error.problem or error.context}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"{where}: not YAML: {error}") from error


def read_yaml(file: Path, what: str) -> Any:
    """The value in a YAML or JSON file; `what` it should hold, such as ``a class map``, is for messages.

    Raises:
        UserError: the file cannot be read, or `parse_yaml` refuses its text.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        cause = getattr(error, "strerror", None) or error
        raise UserError(f"{file}: cannot be read as {what}: {cause}") from error
    return parse_yaml(text, str(file))
