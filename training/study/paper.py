"""The table of the SSPL paper: mean accuracy on CelebA by number of labelled faces, here by the region probe.

Labelled are every k-th face of the train split, as in the published code, and random draws besides.
"""

from pathlib import Path
from statistics import fmean, stdev
from typing import Final

import numpy as np
from tabulate import tabulate

from common import manifest
from common.config import Config, FinetuneRun
from common.errors import UserError
from common.files import write_text
from common.layout import Layout
from training.data.label_subsets import labelled_subset
from training.data.samples import read_samples
from training.evaluate.evaluate import evaluate
from training.evaluate.results import read_json
from training.label.page import sources_of
from training.methods.runs import finetune, run_name

METHOD: Final = "region_probe"
# By labelled faces, SSPL's mean accuracy in percent at threshold 0.5 on CelebA's 19,962 test faces.
PUBLISHED: Final = {325: 86.67, 814: 88.05, 1627: 88.84, 3255: 89.58}


def run_paper(config: Config, layout: Layout, root: Path, resume: str) -> None:
    """Fit and evaluate all that is missing; write ``table.md`` to `root`, and print it.

    Args:
        config: ``study.draws`` is the number of random draws; the other settings are those of the paper's
            protocol, whatever the configuration says.
        root: folder of the lists of labelled faces, the runs and the evaluation.
        resume: as in `finetune`.

    Raises:
        UserError: the train split has fewer labelled faces than the least number.
    """
    lists = _write_lists(layout, config.study.draws, root / "lists")
    runs = [FinetuneRun(labels=str(file), steps=1) for files in lists.values() for file in files]
    protocol = config.finetune.model_copy(update={"methods": [METHOD], "runs": runs, "select": "labels"})
    scoring = config.evaluate.model_copy(update={"resamples": 1, "subgroups": []})
    config = config.model_copy(update={"finetune": protocol, "evaluate": scoring})
    finetune(config, layout, Path(), root / "finetune", resume)
    evaluate(config, layout, root / "finetune", root / "evaluate")
    means = read_json(root / "evaluate" / "metrics.json")
    rows = []
    for count, files in lists.items():
        every, *draws = (100 * means[run_name(METHOD, str(file))]["accuracy"] for file in files)
        spread = f" ± {stdev(draws):.2f}" if len(draws) > 1 else ""
        random = f"{fmean(draws):.2f}{spread}" if draws else "-"
        rows.append([f"{count:,}", f"{PUBLISHED[count]:.2f}", f"{every:.2f}", random])
    heads = ("labels", "SSPL, published", "every k-th face", f"{config.study.draws} random draws")
    table = tabulate(rows, heads, "github", colalign=("right",) * 4, disable_numparse=True)
    test = len(read_samples(layout, ("test",)).labelled())
    name = manifest.read(layout.samples, ["key"]).metadata["dataset"]
    text = f"""\
Mean accuracy over the attributes in percent at threshold 0.5, region probe.

{table}

What differs from the published figures:

- The test faces are {test:,} of {name}; SSPL's are the 19,962 of CelebA's test partition.
- The parser was trained on the masks of CelebAMask-HQ, up to 30,000 of them; SSPL's on 30 or 300.
- Nothing is chosen on test faces; SSPL's published code keeps its best epoch on them. No val label is used.
"""
    write_text(root / "table.md", text)
    print(text, end="")


def _write_lists(layout: Layout, draws: int, folder: Path) -> dict[int, list[Path]]:
    """Lists of labelled faces by their number: every k-th in the order of the files, then random draws."""
    samples = read_samples(layout, ("train",)).labelled()
    source = sources_of(layout)
    in_order = np.array(sorted(range(len(samples)), key=lambda number: source[samples.keys[number]]))
    lists = {}
    for count in PUBLISHED:
        if step := len(samples) // count:
            subsets = {f"every-{step}-{count}": in_order[np.arange(count) * step]}
            for seed in range(draws):
                subsets[f"draw{seed}-{count}"] = labelled_subset(samples, count / len(samples), seed)
            for name, positions in subsets.items():
                keys = sorted(samples.keys[position] for position in positions)
                write_text(folder / f"{name}.txt", "\n".join(keys) + "\n")
            lists[count] = [folder / f"{name}.txt" for name in subsets]
    if not lists:
        raise UserError(
            f"{layout.shards} has {len(samples):,} labelled train faces; the paper's table begins at "
            f"{min(PUBLISHED)}"
        )
    return lists
