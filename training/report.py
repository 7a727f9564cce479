"""The result page."""

from pathlib import Path

from contract.config import Config
from contract.layout import Layout


def report(config: Config, layout: Layout, output: Path, file: Path) -> None:
    """Placeholder until the page is written."""
