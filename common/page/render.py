"""Pages from Jinja templates: one HTML file that loads nothing, in which all text from data is escaped."""

from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from common.classes import CLASS_COLOURS, CLASS_TITLES
from common.page import formats

# Holds the frame of a page, its style sheet and the macros; a page's own templates come first.
TEMPLATES: Final = Path(__file__).parent / "templates"

FILTERS: Final = (
    formats.percent,
    formats.unit,
    formats.signed,
    formats.number,
    formats.count,
    formats.words,
    formats.capitalized,
    formats.duration,
)


def render(folder: Path, template: str, **values: Any) -> str:
    """A page; equal values give equal text.

    Args:
        folder: holds the page's templates; those of `TEMPLATES` can be used by their name.
        template: name of the page's template.
        values: what the template shows. Text is escaped; `markupsafe.Markup`, as figures are, is not.

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
    environment.filters.update({each.__name__: each for each in FILTERS})
    environment.globals["classes"] = list(zip(CLASS_TITLES.values(), CLASS_COLOURS.tolist(), strict=True))
    return environment.get_template(template).render(values) + "\n"
