"""Everything that is made of finished cells: data, table, plot, verdicts."""

import json
from pathlib import Path

from common.config import Config
from common.files import write_text
from training.study import table, verdicts
from training.study.plot import plot


def write_results(config: Config, root: Path) -> None:
    """Write ``study.json``, ``summary.json``, ``table.md``, ``plot.svg``, ``verdicts.md``; print the table.

    Raises:
        UserError: no cell is done.
    """
    study = table.read_study(config, root)
    found = {
        **table.as_json(study),
        "verdicts": verdicts.verdicts(study),
        "targets": verdicts.reached(study),
    }
    write_text(root / "study.json", json.dumps(found, indent=1) + "\n")
    table.write_metrics(study, root / "summary.json")
    write_text(root / "table.md", table.as_markdown(study))
    write_text(root / "verdicts.md", verdicts.as_markdown(study))
    plot(study, root / "plot.svg")
    print(table.as_markdown(study), end="")
