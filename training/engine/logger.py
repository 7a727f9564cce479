"""The log of a training run: curves and images, by DVCLive and optionally TensorBoard."""

from pathlib import Path
from typing import Any, Self

import numpy as np
from dvclive import Live
from numpy.typing import NDArray

from common.errors import UserError


class Log:
    """The log of one run, as a context.

    Args:
        output: folder of the run; curves lie in ``dvclive/plots/metrics``, images in
            ``dvclive/plots/images``, TensorBoard's events in ``tensorboard``.
        step: steps done by an earlier process; later points of its curves are dropped, since the run
            is about to do these steps again.
        tensorboard: whether to write TensorBoard's events too.
        active: whether anything is written; only the first process of a run does.

    Raises:
        UserError: TensorBoard is to be used and is not installed.
    """

    def __init__(self, output: Path, step: int, tensorboard: bool, active: bool = True) -> None:
        self._live = self._board = None
        if not active:
            return
        if tensorboard:
            self._board = _board(output / "tensorboard", step)
        folder = output / "dvclive"
        _drop_after(folder / "plots" / "metrics", step)
        self._live = Live(str(folder), save_dvc_exp=False, dvcyaml=None, report=None, resume=step > 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.end()
        if self._board:
            self._board.close()

    def values(self, step: int, group: str, values: dict[str, float]) -> None:
        """Add a point to the curves ``group/name``, after `step` steps."""
        if self._live:
            self._live.step = step
            for name, value in values.items():
                self._live.log_metric(f"{group}/{name}", value)
        if self._board:
            for name, value in values.items():
                self._board.add_scalar(f"{group}/{name}", value, step)

    def image(self, step: int, name: str, image: NDArray[np.uint8]) -> None:
        """Log an RGB image, uint8 (H, W, 3), after `step` steps."""
        if self._live:
            self._live.step = step
            self._live.log_image(f"{name}-{step:09d}.png", image)
        if self._board:
            self._board.add_image(name, image, step, dataformats="HWC")


def _board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError(
            "pretrain.tensorboard is true, but the package is missing; `pip install tensorboard`, "
            "or set pretrain.tensorboard=false"
        ) from error
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)


def _drop_after(folder: Path, step: int) -> None:
    for file in folder.rglob("*.tsv") if step else ():
        header, *rows = file.read_text(encoding="utf-8").splitlines(keepends=True)
        # A copy that was made while the file was written ends within a row.
        kept = [row for row in rows if row.endswith("\n") and int(row.split("\t")[0]) <= step]
        file.write_text(header + "".join(kept), encoding="utf-8")
