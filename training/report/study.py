"""The label-efficiency study, from the table and the plot that it wrote."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from common.page.figures import inline
from training.report.runs import MAIN


@dataclass(frozen=True)
class Study:
    """The study.

    Attributes:
        faces: numbers of labelled faces, rising.
        rows: title of an initialisation, and its mean average precision at each of `faces` as text.
        seeds: how many, at most.
        plot: its plot, None without one.
    """

    faces: Sequence[int]
    rows: Sequence[Sequence[str]]
    seeds: int
    plot: Markup | None


def read_study(folder: Path) -> Study | None:
    """The study from its folder; None if there is none."""
    if not (folder / "study.json").is_file():
        return None
    summary = json.loads((folder / "study.json").read_text(encoding="utf-8"))["summary"]
    faces = sorted({row["faces"] for row in summary})
    cells: dict[str, dict[int, str]] = {}
    for row in summary:
        cells.setdefault(row["title"], {})
        if score := row["scores"].get(MAIN):
            spread = "" if score["deviation"] is None else f" \u00b1 {100 * score['deviation']:.1f}"
            cells[row["title"]][row["faces"]] = f"{100 * score['mean']:.1f}{spread}"
    plot = folder / "plot.svg"
    return Study(
        faces,
        [[title, *(values.get(number, "\u2013") for number in faces)] for title, values in cells.items()],
        max((row["seeds"] for row in summary), default=0),
        inline(plot.read_text(encoding="utf-8"), "Metrics by labelled faces") if plot.is_file() else None,
    )
