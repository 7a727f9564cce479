"""Pages from Jinja templates: one HTML file that loads nothing, in which all text from data is escaped."""

from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from common.classes import CLASS_COLOURS, CLASS_TITLES
from common.page import formats

# Holds the frame of a page, its style sheet and the macros; a page's own templates come first.
TEMPLATES: Final = Path(__file__).parent / "templates"


def render(folder: Path, template: str, **values: Any) -> str:
    """A page; equal values give equal text.

    `folder` holds the page's templates; those of `TEMPLATES` can be used by their name. Text in `values` is
    escaped; `markupsafe.Markup`, as figures are, is not.

    Raises:
        jinja2.UndefinedError: the template uses a value that is not there.
    """
    environment = Environment(
        loader=FileSystemLoader([folder, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = ("percent", "unit", "signed", "number", "count", "words", "capitalized", "duration")
    environment.filters.update({name: getattr(formats, name) for name in names})
    environment.globals["classes"] = list(zip(CLASS_TITLES.values(), CLASS_COLOURS.tolist(), strict=True))
    return environment.get_template(template).render(values) + "\n"
