"""What the result page shows of results made apart: the label-efficiency study and activation maps."""

import json
import statistics
from collections import defaultdict
from pathlib import Path

from common.page.charts import data_uri
from training.report.results import ActivationMap, StudyLine

SCORES = ("average_precision", "balanced_accuracy")


def read_study(output: Path) -> list[StudyLine]:
    """Mean and deviation over the seeds from ``study/study.json``; nothing without that file."""
    file = output / "study" / "study.json"
    if not file.is_file():
        return []
    values: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]:
        for score in SCORES:
            if (value := cell["scores"].get(score)) is not None:
                values[score, cell["initial"]][cell["faces"]].append(value)
    return [
        StudyLine(
            initial,
            score,
            [
                (float(faces), statistics.fmean(each), statistics.stdev(each) if len(each) > 1 else 0.0)
                for faces, each in sorted(by_faces.items())
            ],
            max(map(len, by_faces.values())),
        )
        for (score, initial), by_faces in values.items()
    ]


def read_maps(output: Path) -> list[ActivationMap]:
    """The pictures that ``explain/maps.json`` names; nothing without that file, or where one is missing."""
    folder = output / "explain"
    if not (folder / "maps.json").is_file():
        return []
    listed = json.loads((folder / "maps.json").read_text(encoding="utf-8"))["attributes"]
    return [
        ActivationMap(entry["name"], entry["branch"], data_uri((folder / entry["file"]).read_bytes(), "png"))
        for entry in listed
        if (folder / entry["file"]).is_file()
    ]
