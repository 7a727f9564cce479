"""``python -m benchmarks.predict``: photos to attributes by the region probe, beside photos to shards.

Both whole commands run in turn, with start-up, detection and as many processes as there are cores:
a. ``pipeline.parse``, b. ``training.predict`` of a probe that was fitted to the shards of a.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.parquet as pq

from benchmarks.processes import run
from common import command
from common.layout import Layout
from synthetic import write_dataset
from training.predict.predict import photos_in


def main() -> None:
    """Read the command line, measure both, and print the ratio."""
    parser = command.parser("Faces per second from photos to attributes.", "  python -m benchmarks.predict")
    parser.add_argument("--faces", metavar="DIR", help="photos with labels (default: painted ones, made now)")
    parser.add_argument("--count", type=int, default=400, help="photos (default: 400)")
    options = parser.parse_args()
    workers = len(os.sched_getaffinity(0))
    with TemporaryDirectory() as name:
        source, shards, output = options.faces or f"{name}/photos", f"{name}/shards", f"{name}/faces.parquet"
        if not options.faces:
            write_dataset(Path(source), count=options.count, seed=1, wild=True)
        align = ("--align=detect", f"--limit={options.count}", f"--set=cluster.workers={workers}")
        pipeline = _seconds("pipeline.parse", f"--input={source}", f"--output={shards}", *align)
        fit = ("--stage=finetune", "--methods=region_probe", "--labels=100%")
        _seconds("training.run", f"--shards={shards}", f"--output={name}", *fit)
        checkpoint = f"--checkpoint={name}/finetune/region_probe-100%/classifier.pt"
        photos = [str(photo.file) for photo in photos_in([Path(source)])[0][: options.count]]
        flags = ("--align=detect", f"--workers={workers}", f"--output={output}")
        predict = _seconds("training.predict", checkpoint, *flags, *photos)
        stored = pq.read_metadata(str(Layout.at(shards).samples)).num_rows
        a, b = stored / pipeline, pq.read_table(output)["reason"].null_count / predict
    print(f"\n{options.count} photos, {workers} processes, faces per second")
    print(f"  a photos to shards       {a:7.2f}")
    print(f"  b photos to attributes   {b:7.2f}")
    print(f"b / a = {b / a:.2f} (target 0.8)")


def _seconds(module: str, *flags: str) -> float:
    """Seconds of a command."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", module, *flags], check=True)
    return time.monotonic() - started


if __name__ == "__main__":
    run(main)
