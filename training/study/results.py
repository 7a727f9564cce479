"""The study's results: all finished draws, and means and deviations over them."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from common.config import Study
from common.errors import UserError
from training.study.draws import SCORES
from training.study.grid import Arm, arms, draw_folder


@dataclass(frozen=True)
class Summary:
    """A metric over the draws.

    Attributes:
        mean: over the draws.
        deviation: sample standard deviation (n - 1); None for a single draw.
        draws: how many.
    """

    mean: float
    deviation: float | None
    draws: int

    def __str__(self) -> str:
        spread = "" if self.deviation is None else f" ± {100 * self.deviation:.1f}"
        return f"{100 * self.mean:.1f}{spread}"


@dataclass(frozen=True)
class StudyResults:
    """The draws that are done.

    Attributes:
        settings: of the study.
        runs: what `training.study.draws.run_draw` wrote of every run.
        majority: means of the majority class by metric.
        missing: number of draws that are not done.
    """

    settings: Study
    runs: Sequence[Mapping[str, Any]]
    majority: Mapping[str, float | None]
    missing: int

    @property
    def arms(self) -> list[Arm]:
        """All arms."""
        return arms(self.settings)

    @property
    def faces(self) -> list[int]:
        """Numbers of labelled faces, ascending."""
        return sorted({run["faces"] for run in self.runs})

    def by_draw(self, arm: Arm, faces: int, metric: str) -> dict[int, float]:
        """A metric of one arm with so many labelled faces, by draw."""
        return {
            run["draw"]: run["scores"][metric]
            for run in self.runs
            if (run["arm"], run["faces"]) == (str(arm), faces) and run["scores"].get(metric) is not None
        }

    def summary(self, arm: Arm, faces: int, metric: str) -> Summary | None:
        """Mean and deviation of a metric over the draws; None without any."""
        values = list(self.by_draw(arm, faces, metric).values())
        if not values:
            return None
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return Summary(statistics.fmean(values), deviation, len(values))

    def amount(self, faces: int) -> str:
        """So many labelled faces in words, with the share or the list that they are."""
        labels = next(run["labels"] for run in self.runs if run["faces"] == faces)
        share = Path(labels).stem if isinstance(labels, str) else f"{100 * labels:g} %"
        return f"{faces:,} ({share})"


def read_results(settings: Study, root: Path) -> StudyResults:
    """The draws that are done.

    Raises:
        UserError: none is.
    """
    grid = list(product(arms(settings), range(settings.draws)))
    files = [file for arm, draw in grid if (file := draw_folder(root, arm, draw) / SCORES).is_file()]
    if not files:
        raise UserError(f"{root / 'draws'} has no finished draw; `python -m training.study` makes them")
    scores = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    runs = [run for each in scores for run in each["runs"]]
    return StudyResults(settings, runs, scores[0]["majority"], len(grid) - len(files))
