"""``python -m benchmarks.probe_scale``: memory and time of fitting the region probe, by labelled faces.

The faces are those of labelled shards, repeated. Each number has a process, so that its peak is its own.
"""

import multiprocessing
import resource
import time

import numpy as np

from benchmarks.processes import run
from common import command
from common.config import Config
from common.layout import Layout
from training.data.samples import read_samples
from training.methods.method import regions_of
from training.methods.region_probe import fit_region_probe


def main() -> None:
    """Read the command line, and print a line for each number of faces."""
    parser = command.parser(
        __doc__ or "", "  python -m benchmarks.probe_scale --shards OUT", "labelled shards"
    )
    parser.add_argument("--faces", type=int, nargs="+", default=[8_000, 40_000], help="numbers of faces")
    options = parser.parse_args()
    config = command.config_from(options)
    for faces in options.faces:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            seconds, peak = pool.apply(_fit, (config, options.shards, faces))
        print(f"{faces:,} faces: {seconds:,.0f} s of CPU, {peak:,.0f} MB at most", flush=True)


def _fit(config: Config, shards: str, faces: int) -> tuple[float, float]:
    """CPU seconds, and the peak resident set size in MB."""
    samples = read_samples(Layout.at(shards), ("train",)).labelled()
    started = time.process_time()
    repeated = samples.take(np.sort(np.arange(faces) % len(samples)))
    fit_region_probe(repeated, samples, config.stream, regions_of(config.finetune))
    return time.process_time() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    run(main)
