"""The result page: `collect` reads what there is, `page` writes it as one self-contained HTML file."""

from training.report.collect import report

__all__ = ["report"]
