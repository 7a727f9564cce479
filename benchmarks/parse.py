"""``python -m benchmarks.parse``: the pipeline compared with a plain loop and with the bare network.

Three variants are measured in turn, on the same faces and all cores:

a. ``plain loop``: facexlib's BiSeNet as it is usually run, one face at a time, float32, at 512 pixels,
   with PyTorch's own threads.
b. ``python -m pipeline.parse``: from files to finished shards (ingest, align, parse), the whole command. Also
   without its start-up: what it takes on a face per process.
c. ``bare network``: the network as b runs it, on tensors in memory, in as many processes.

With another parser (``--set parse.parser=onnx --set weights.parser=FILE``) b and c run that one. With
--facemasks, the masks of a and b are also compared with true masks. The row that is printed last of the
speeds is one of the table in ``docs/benchmarks.md``.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import cv2
import numpy as np
import pyarrow.parquet as pq
import torch
from facexlib.parsing import init_parsing_model
from numpy.typing import NDArray
from torch import nn

from benchmarks.parser_quality import confusion_matrix, f1_scores, image_files, read_pair
from benchmarks.processes import parallel_rate, processor, run
from common import command
from common.classes import NUM_CLASSES
from common.config import Config
from common.files import write_text
from common.hardware import hardware
from common.layout import Layout
from common.members import decode_face
from common.parsing.facexlib_networks import BISENET
from common.parsing.find_parser import find_parser
from common.parsing.masks import assign_sides
from common.parsing.network import normalised
from common.parsing.parser import CPU_BATCH, ParserFile, load_network, load_parser
from common.shards import read_shard
from common.weights import find
from synthetic import write_dataset

PLAIN_SIDE: Final = 512
PLAIN_FACES: Final = 24
BARE_FACES: Final = 64


def main() -> None:
    """Read the command line, measure the three variants in turn, and print the ratios."""
    parser = command.parser(
        "Faces per second of the pipeline.",
        "  python -m benchmarks.parse --faces celeba --facemasks facemasks",
    )
    parser.add_argument("--faces", metavar="DIR", help="aligned faces (default: painted ones, made now)")
    parser.add_argument("--count", type=int, default=1500, help="faces that b reads (default: 1500)")
    parser.add_argument("--rounds", type=int, default=2, help="rounds of all three (default: 2)")
    parser.add_argument("--facemasks", type=Path, metavar="DIR", help="CelebAMask-HQ pairs, for the quality")
    parser.add_argument("--pairs", type=int, default=200, help="pairs for the quality (default: 200)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the figures as JSON")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        source = options.faces
        if source is None:
            source = str(Path(folder, "portraits"))
            write_dataset(Path(source), count=options.count, seed=1)
        config = command.config_from(options)
        figures = _measure(config, options, source, Path(folder))
    if options.facemasks:
        figures |= _quality(config, options.facemasks, options.pairs)
    if options.output:
        write_text(options.output, json.dumps(figures, indent=2) + "\n")


def _measure(config: Config, options: argparse.Namespace, source: str, folder: Path) -> dict[str, float]:
    file = find_parser(config.parse, config.weights)
    workers = config.cluster.workers or len(os.sched_getaffinity(0))
    start_up = _command(options, source, workers, folder / "start-up")
    rates: dict[str, list[float]] = {"a": [], "b": [], "b_without_start_up": [], "c": []}
    for turn in range(options.rounds):
        output = folder / f"shards-{turn}"
        seconds = _command(options, source, options.count, output)
        faces, count = _stored(Layout.at(output))
        rates["b"].append(count / seconds)
        rates["b_without_start_up"].append(count / (seconds - start_up))
        arguments = (file, CPU_BATCH, faces)
        rates["c"].append(parallel_rate(_bare_network, arguments, len(faces), workers))
        rates["a"].append(_plain_rate(config, faces[:PLAIN_FACES]))
    figures = {name: float(np.median(values)) for name, values in rates.items()} | {"start_up": start_up}
    a, b, steady, c, _ = figures.values()
    print(f"\n{workers} processes, {options.rounds} rounds, medians in faces per second")
    print(f"  a plain loop, float32 at {PLAIN_SIDE}       {a:7.2f}")
    print(f"  b pipeline.parse, files to shards   {b:7.2f}")
    print(f"    without {start_up:4.1f} s of start-up       {steady:7.2f}")
    print(f"  c bare network at {file.size}               {c:7.2f}")
    print(f"b / a = {b / a:.2f} (target 3.5, or 5 on AVX-512 with VNNI or bfloat16)")
    print(f"b / c = {b / c:.3f} (target 0.85), without start-up {steady / c:.3f}")
    machine = f"{processor()} ({hardware().name}, {file.computes_in}, {workers} processes)"
    ratios = f"{b / a:.2f} | {b / c:.2f} | {steady:.2f} | {steady / c:.2f} |"
    print(f"| {machine} | {options.count:,} | {a:.2f} | {c:.2f} | {b:.2f} | {ratios}")
    return figures


def _command(options: argparse.Namespace, source: str, count: int, output: Path) -> float:
    """Seconds of ``python -m pipeline.parse`` on the first `count` faces of `source`."""
    flags = [f"--config={path}" for path in options.config] + [f"--set={each}" for each in options.settings]
    flags += [f"--input={source}", "--align=none", f"--limit={count}", f"--output={output}"]
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "pipeline.parse", *flags], check=True)
    return time.monotonic() - started


def _stored(layout: Layout) -> tuple[NDArray[np.uint8], int]:
    """At most `BARE_FACES` aligned faces, uint8 (N, S, S, 3), and the number of all samples."""
    table = pq.read_table(str(layout.samples), columns=["shard"])
    first = layout.shards / table["shard"][0].as_py()
    faces = [decode_face(members["jpg"]) for _, members in read_shard(first)]
    return np.stack(faces[:BARE_FACES]), table.num_rows


def _bare_network(file: ParserFile, batch: int, faces: NDArray[np.uint8]) -> Callable[[], None]:
    load_parser(file)  # configures the process like b's workers: one thread, freed memory kept
    network = load_network(file)
    with torch.inference_mode():
        inputs = [
            normalised(faces[i : i + batch], file.class_map, file.size, network.device)
            for i in range(0, len(faces), batch)
        ]
        network.outputs(inputs[0])

    def work() -> None:
        with torch.inference_mode():
            for pixels in inputs:
                network.outputs(pixels)

    return work


def _plain_network(config: Config) -> nn.Module:
    weights = find("bisenet", config.weights.model_copy(update={"parser": None}))
    return init_parsing_model("bisenet", device="cpu", model_rootpath=str(weights.parent))


@torch.no_grad()
def _plain_mask(model: nn.Module, face: NDArray[np.uint8]) -> NDArray[np.uint8]:
    large = cv2.resize(face, (PLAIN_SIDE, PLAIN_SIDE), interpolation=cv2.INTER_LINEAR)
    pixels = torch.from_numpy(large).permute(2, 0, 1)[None].float() / 255
    norm = BISENET
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (norm.mean, norm.std))
    mask = model((pixels - mean) / deviation)[0][0].argmax(0).numpy().astype(np.uint8)
    return cv2.resize(mask, face.shape[:2], interpolation=cv2.INTER_NEAREST).astype(np.uint8)


def _plain_rate(config: Config, faces: NDArray[np.uint8]) -> float:
    threads = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = _plain_network(config)
    _plain_mask(model, faces[0])
    started = time.monotonic()
    for face in faces:
        _plain_mask(model, face)
    rate = len(faces) / (time.monotonic() - started)
    torch.set_num_threads(threads)
    return rate


def _quality(config: Config, folder: Path, limit: int) -> dict[str, float]:
    """Mean F1 over the 18 face regions of a's masks, of a's with sides by position, and of b's."""
    file = find_parser(config.parse, config.weights)
    parse_faces, model, images = load_parser(file), _plain_network(config), image_files(folder, limit)
    confusion = np.zeros((3, NUM_CLASSES, NUM_CLASSES), np.int64)
    for face, truth in (read_pair(image) for image in images):
        plain = _plain_mask(model, face)
        masks = (plain, assign_sides(plain[None])[0], parse_faces(face[None])[0][0])
        confusion += np.stack([confusion_matrix(truth, mask) for mask in masks])
    scores = [float(f1_scores(each)[1:].mean()) for each in confusion]
    print(
        f"mean F1 of 18 regions over {len(images)} pairs: a {scores[0]:.3f}, a with sides by position "
        f"{scores[1]:.3f}, b {scores[2]:.3f} (target: at most 0.005 below a)"
    )
    return dict(zip(("f1_a", "f1_a_with_sides", "f1_b"), scores, strict=True))


if __name__ == "__main__":
    run(main)
