"""The result page as HTML. It stands alone: no script, no font, no picture is loaded, and every text that
comes from data is escaped.
"""

from html import escape

from training.report.origins import input_section, mistakes_section, pretraining_section, reproduce_section
from training.report.results import Results
from training.report.scores import by_attribute, by_labels, headline, lede, scores_section
from training.report.style import STYLE


def page(results: Results) -> str:
    """The whole page; equal results give equal text."""
    sections = [
        scores_section(results),
        by_labels(results),
        by_attribute(results),
        input_section(results),
        pretraining_section(results),
        mistakes_section(results),
        reproduce_section(results),
    ]
    title = escape(f"Facial attributes from few labels: {results.dataset}")
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{title}</title><style>{STYLE}</style></head>\n<body>"
    )
    top = f'<header><p class="over">{title}</p><h1>{headline(results)}</h1>{lede(results)}</header>'
    return "\n".join([head, top, "<main>", *filter(None, sections), "</main></body></html>\n"])
