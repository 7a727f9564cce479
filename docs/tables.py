"""``python -m docs.tables``: writes the tables of the documents that are data, between their markers.

The settings come from ``params.yaml`` and the classes of `common.config`, the results from
``docs/results.json``, which has the form of the ``study.json`` that ``training.study`` writes.
"""

import json
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple, Union, get_args, get_origin

from common.config import PARAMS, Config, read_mapping
from common.files import write_text
from common.pipeline_config import Section
from training.evaluate.metrics import METRICS, PRIMARY
from training.pretrain.tasks import TASKS

DOCS: Final = Path(__file__).parent
RESULTS: Final = DOCS / "results.json"
ROWS: Final = ("scratch", "probe", "region_probe", "pretrained", "student")
"""Methods in the README, below the majority class."""
COLUMNS: Final = ("accuracy", "balanced_accuracy", "average_precision")
"""Metrics in the table of the study."""


class Setting(NamedTuple):
    """A setting: its dotted key, its value in ``params.yaml`` as YAML, and what it means."""

    key: str
    value: str
    description: str


def settings() -> list[Setting]:
    """All settings, in the order of the configuration's classes; those of a pretext task with the task."""
    return list(_settings(Config, read_mapping(PARAMS), ""))


def _settings(section: type[Section], values: Any, path: str) -> Iterator[Setting]:
    for name, field in section.model_fields.items():
        key, value = f"{path}{name}", values.get(name) if isinstance(values, dict) else None
        if key == "pretrain.tasks":
            for task, kind in TASKS.items():
                yield from _settings(kind.config_class, (value or {}).get(task), f"{key}.{task}.")
        elif inner := _section_in(field.annotation):
            yield from _settings(inner, value, f"{key}{'' if isinstance(value, dict) else '[]'}.")
        else:
            text = "" if key.partition("[]")[1] else json.dumps(value, ensure_ascii=False)
            yield Setting(key, text, " ".join((field.description or "").split()))


def _section_in(annotation: Any) -> type[Section] | None:
    """The section that a field holds, or a list of it."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    if get_origin(annotation) in (Annotated, Union, types.UnionType, list):
        return next(filter(None, map(_section_in, get_args(annotation))), None)
    return None


def settings_list() -> str:
    """A list per section of the configuration, below its docstring's first line."""
    lines, last = list[str](), ""
    for key, value, description in settings():
        name = key.partition(".")[0]
        if name != last:
            section = _section_in(Config.model_fields[name].annotation)
            title = (section.__doc__ or "").strip().splitlines()[0] if section else ""
            lines += ["", f"## {name}", "", title, ""]
        last = name
        default = f" (`{value}`)" if value else ""
        lines.append(f"- `{key.removeprefix(f'{name}.')}`{default}: {description.replace('``', '`')}")
    return "\n".join(lines[1:])


def results_table() -> str:
    """For the README: mean average precision by amount of labels, a row per method."""
    results, faces = _results()
    lines = ["| | " + " | ".join(_amount(count, max(faces)) for count in faces) + " |"]
    lines.append("|---|" + "--:|" * len(faces))
    majority = f"{100 * results['majority'][PRIMARY]:.1f}"
    lines.append("| majority class | " + " | ".join([majority] * len(faces)) + " |")
    for method in ROWS:
        rows = {row["faces"]: row for row in results["summary"] if row["method"] == method}
        cells = " | ".join(_percent(rows[count]["scores"][PRIMARY]) for count in faces)
        lines.append(f"| {next(iter(rows.values()))['title']} | {cells} |")
    return "\n".join(lines)


def study_table() -> str:
    """The metrics of `COLUMNS`, a row per amount of labels and method."""
    results, faces = _results()
    lines = ["| labels | method | " + " | ".join(METRICS[name].title for name in COLUMNS) + " |"]
    lines.append("|---|---|" + "--:|" * len(COLUMNS))
    cells = " | ".join(f"{100 * results['majority'][name]:.1f}" for name in COLUMNS)
    lines.append(f"| | majority class | {cells} |")
    last = 0
    for row in results["summary"]:
        amount = _amount(row["faces"], max(faces)) if row["faces"] != last else ""
        last = row["faces"]
        cells = " | ".join(_percent(row["scores"][name]) for name in COLUMNS)
        lines.append(f"| {amount} | {row['title']} | {cells} |")
    return "\n".join(lines)


def _results() -> tuple[Any, list[int]]:
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    return results, sorted({row["faces"] for row in results["summary"]})


def _amount(faces: int, most: int) -> str:
    return f"{faces:,} ({100 * faces / most:.0f} %)"


def _percent(score: dict[str, float | None]) -> str:
    spread = "" if score["deviation"] is None else f" ± {100 * score['deviation']:.1f}"
    return f"{100 * (score['mean'] or 0):.1f}{spread}"


TABLES: Final = {
    DOCS / "settings.md": ("settings", settings_list),
    DOCS.parent / "README.md": ("results", results_table),
    DOCS / "study.md": ("results", study_table),
}
"""By document: the name of its markers, and the table between them."""


def up_to_date(file: Path) -> str:
    """The text of a document of `TABLES` with its table as it should be.

    Raises:
        ValueError: the document has no markers.
    """
    name, table = TABLES[file]
    text = file.read_text(encoding="utf-8")
    marked = re.compile(rf"(<!-- {name}: made by `make docs` -->\n).*?(\n<!-- end of {name} -->)", re.DOTALL)
    if not marked.search(text):
        raise ValueError(f"{file} has no markers of {name}")
    return marked.sub(lambda match: f"{match[1]}\n{table()}\n{match[2]}", text)


def main() -> None:
    """Write the documents of `TABLES`."""
    for file in TABLES:
        write_text(file, up_to_date(file))


if __name__ == "__main__":
    main()
