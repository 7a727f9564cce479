"""The log of a training run: curves, by DVCLive."""

from pathlib import Path
from typing import Self

from dvclive import Live

from common.files import disk_errors, write_text


class Log:
    """The log of one run, as a context.

    Args:
        output: folder of the run; curves lie in ``dvclive/plots/metrics``. None: nothing is written.
        step: steps done by an earlier process; later points of its curves are dropped, since the run
            is about to do these steps again.
    """

    def __init__(self, output: Path | None, step: int) -> None:
        self._live = None
        if output is not None:
            folder = output / "dvclive"
            _drop_after(folder, step)
            self._live = Live(str(folder), save_dvc_exp=False, dvcyaml=None, report=None, resume=step > 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.end()

    def values(self, step: int, group: str, values: dict[str, float]) -> None:
        """Add a point to the curves ``group/name``, after `step` steps."""
        if self._live:
            self._live.step = step
            with disk_errors(Path(self._live.dir)):
                for name, value in values.items():
                    self._live.log_metric(f"{group}/{name}", value)


def _drop_after(folder: Path, step: int) -> None:
    (folder / "metrics.json").unlink(missing_ok=True)  # the last values, which a full disk leaves empty
    for file in (folder / "plots" / "metrics").rglob("*.tsv") if step else ():
        header, *rows = file.read_text(encoding="utf-8").splitlines(keepends=True) or ("",)
        # What a full disk or a copy of a file that was being written ends with is part of a row.
        kept = [row for row in rows if row.endswith("\n") and int(row.split("\t")[0]) <= step]
        write_text(file, header + "".join(kept)) if header.endswith("\n") else file.unlink()
