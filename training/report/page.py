"""The result page as HTML. It stands alone: no script, no font, no picture is loaded, and every text that
comes from data is escaped.
"""

from html import escape

from common.page.elements import document
from training.report.labels import by_labels
from training.report.origins import input_section, mistakes_section, reproduce_section
from training.report.results import Results
from training.report.scores import by_attribute, headline, lede, scores_section
from training.report.training import costs_section, finetuning_section, pretraining_section
from training.report.trust import activation_maps, calibration, group_gaps


def page(results: Results) -> str:
    """The whole page; equal results give equal text."""
    sections = [
        scores_section(results),
        by_labels(results),
        by_attribute(results),
        mistakes_section(results),
        calibration(results),
        group_gaps(results),
        activation_maps(results),
        input_section(results),
        pretraining_section(results),
        finetuning_section(results),
        costs_section(results),
        reproduce_section(results),
    ]
    title = f"Facial attributes from few labels: {results.dataset}"
    top = f'<header><p class="over">{escape(title)}</p><h1>{headline(results)}</h1>{lede(results)}</header>'
    return document(title, top, sections)
