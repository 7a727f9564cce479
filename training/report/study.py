"""The label-efficiency study, from the table and the plot that it wrote."""

import json
from pathlib import Path
from typing import Any

from common.page.figures import inline
from common.page.formats import number
from training.report.runs import MAIN


def read_study(folder: Path) -> dict[str, Any] | None:
    """The study from its folder; None if there is none.

    Returns:
        ``heads``: numbers of labelled faces, rising. ``rows``: the title of an initialisation, and its mean
        average precision at each of them. ``seeds``: how many, at most. ``plot``: its plot, or None.
    """
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
    return {
        "heads": [number(count) for count in faces],
        "rows": [
            [title, *(values.get(count, "\u2013") for count in faces)] for title, values in cells.items()
        ],
        "seeds": max((row["seeds"] for row in summary), default=0),
        "plot": inline(plot.read_text(encoding="utf-8"), "Metrics by labelled faces")
        if plot.is_file()
        else None,
    }
