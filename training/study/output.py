"""The files that are made of finished cells: data, table, plot, verdicts."""

import json
from pathlib import Path

from common.config import Config
from common.files import write_text
from common.layout import Layout
from training.study import cell as cell_runs
from training.study import verdicts
from training.study.grid import cell_file, cells
from training.study.plot import plot
from training.study.results import as_json, read_results
from training.study.table import as_markdown


def write_results(config: Config, layout: Layout, root: Path) -> None:
    """Write ``study.json``, ``table.md``, ``plot.svg`` and ``verdicts.md``; print the table.

    Cells that other shards, weights, settings or code made are kept with a notice.

    Raises:
        UserError: no cell is done.
    """
    results = read_results(config.study, root)
    summary = {**as_json(results), "verdicts": verdicts.verdicts(results)}
    write_text(root / "study.json", json.dumps(summary, indent=1) + "\n")
    write_text(root / "table.md", as_markdown(results))
    write_text(root / "verdicts.md", verdicts.as_markdown(results))
    plot(results, root / "plot.svg")
    print(as_markdown(results), end="")
    stale = sum(
        cell_file(root, cell).is_file() and not cell_runs.is_done(config, layout, root, cell)
        for cell in cells(config.study)
    )
    if stale:
        print(f"study: {stale} of these cells are stale; `python -m training.study` runs them again")
