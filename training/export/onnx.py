"""``python -m training.export``: a classifier as ONNX and torch.export files, compared, with a model card."""

import argparse
import importlib
import json
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from common.command import run
from common.errors import UserError
from common.files import replacing, write_text
from common.images import Refused
from common.layout import Layout
from common.pipeline_config import Stream
from training.data.loader import load
from training.data.sampler import sequential_batches
from training.data.samples import read_samples
from training.engine import checkpoint
from training.export.model_card import Evidence, card
from training.models.classifier_file import save_thresholds
from training.predict.inference_model import InferenceModel
from training.predict.predict import photos_in
from training.predict.predictor import Predictor
from training.predict.thresholds import evaluation_folder

Probabilities = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""From aligned faces, uint8 (B, S, S, 3), to probabilities, float32 (B, A)."""

TOLERANCE: Final = 1e-4
"""Greatest difference of a probability between the classifier and an exported file of it."""

BATCHES: Final = (1, 32)
"""Faces per call whose time is measured."""

CALLS: Final = 7
"""Timed calls per batch size, of which the median counts."""

FACES: Final = 64
"""Faces of given shards that are compared."""

EXAMPLES = """\
examples:
  python -m training.export --checkpoint runs/finetune/semi-5%/classifier.pt --output exported --shards shards
  python -m training.export --checkpoint classifier.pt --output exported --faces photos/"""


@dataclass(frozen=True)
class Measured:
    """One form of the classifier.

    Attributes:
        name: file name.
        megabytes: size of the file.
        difference: greatest difference of a probability from the classifier's; None for itself.
        milliseconds: median time per face, by faces per call.
    """

    name: str
    megabytes: float
    difference: float | None
    milliseconds: dict[int, float]


def export(predictor: Predictor, faces: NDArray[np.uint8], source: Path, output: Path) -> list[Measured]:
    """Write ``classifier.onnx``, ``classifier.pt2`` and ``classifier.pt`` to `output`, and measure them.

    Both graphs take aligned RGB faces, uint8 (B, S, S, 3) with any B, as ``faces`` and give
    ``probabilities``, float32 (B, A).

    Args:
        predictor: the classifier.
        faces: uint8 (N, S, S, 3), what the forms are compared on.
        source: the classifier's file; its copy in `output` has the thresholds inside.
        output: folder.

    Raises:
        UserError: a package is missing, or a written file gives other probabilities.
    """
    runtime = _package("onnxruntime")
    for name in ("onnx", "onnxscript"):
        _package(name)
    model = predictor.model.cpu().eval()
    output.mkdir(parents=True, exist_ok=True)
    save_thresholds(source, output / "classifier.pt", predictor.thresholds, predictor.thresholds_from)
    _write_graphs(model, faces, output)
    session = runtime.InferenceSession(str(output / "classifier.onnx"), providers=["CPUExecutionProvider"])
    graph = torch.export.load(output / "classifier.pt2").module()
    forms: dict[str, Probabilities] = {
        "classifier.pt": lambda batch: _run(model, batch),
        "classifier.pt2": lambda batch: _run(graph, batch),
        "classifier.onnx": lambda batch: session.run(None, {"faces": batch})[0],
    }
    reference = _run(model, faces)
    measured = []
    for name, probabilities in forms.items():
        difference = (
            None if name == "classifier.pt" else float(np.abs(probabilities(faces) - reference).max())
        )
        if difference is not None and not difference <= TOLERANCE:
            raise UserError(
                f"{output / name}: its probabilities differ by up to {difference:.2g} from the classifier's; "
                "do not use it, and report the versions of torch, onnx and onnxruntime"
            )
        size = (output / name).stat().st_size / 1e6
        times = {batch: _milliseconds(probabilities, faces, batch) for batch in BATCHES}
        measured.append(Measured(name, round(size, 2), difference, times))
    return measured


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"export needs {name}: pip install onnx onnxruntime onnxscript") from error


def _write_graphs(model: InferenceModel, faces: NDArray[np.uint8], output: Path) -> None:
    # An example of one face would be taken for a fixed batch of one.
    example = torch.from_numpy(np.resize(faces, (2, *faces.shape[1:])))
    dynamic = {"faces": {0: torch.export.Dim("batch", min=1, max=4096)}}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        graph = torch.export.export(model, (example,), dynamic_shapes=dynamic)
        # Given a path, torch.export refuses the ending of a temporary file.
        with replacing(output / "classifier.pt2") as temporary, temporary.open("wb") as stream:
            torch.export.save(graph, stream)
        with replacing(output / "classifier.onnx") as temporary:
            torch.onnx.export(
                graph,
                (example,),
                str(temporary),
                input_names=["faces"],
                output_names=["probabilities"],
                dynamo=True,
                external_data=False,
                verbose=False,
            )


def _run(model: torch.nn.Module, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
    with torch.inference_mode():
        return model(torch.from_numpy(batch)).numpy()


def _milliseconds(probabilities: Probabilities, faces: NDArray[np.uint8], batch: int) -> float:
    some = np.resize(faces, (batch, *faces.shape[1:]))
    probabilities(some)
    seconds = []
    for _ in range(CALLS):
        began = time.perf_counter()
        probabilities(some)
        seconds.append(time.perf_counter() - began)
    return round(1000 * statistics.median(seconds) / batch, 2)


def faces_of_shards(shards: str) -> NDArray[np.uint8]:
    """The first test faces of finished shards, at most `FACES`: uint8 (N, S, S, 3).

    Raises:
        UserError: there are no shards, or no faces in them.
    """
    layout = Layout.at(shards)
    found = read_samples(layout, ("test",))
    found = found if len(found) else read_samples(layout, ("train", "val", "unlabelled"))
    if not len(found):
        raise UserError(f"{shards}: holds no faces")
    some = found.take(np.arange(min(FACES, len(found))))
    stream = Stream(cache=None, cache_gigabytes=1.0)
    batches = [
        batch.images.permute(0, 2, 3, 1).numpy()
        for batch in load(some, sequential_batches(some, FACES), {"jpg"}, 0, stream)
    ]
    return np.concatenate(batches)


def faces_of_photos(predictor: Predictor, places: Sequence[Path]) -> NDArray[np.uint8]:
    """The aligned faces of photos, at most `FACES`: uint8 (N, S, S, 3).

    Raises:
        UserError: no photo has a face.
    """
    images: list[NDArray[np.uint8]] = []
    for photo, _ in photos_in(list(places)):
        try:
            images += [face.image for face in predictor(photo)]
        except Refused:
            continue
        if len(images) >= FACES:
            break
    if not images:
        raise UserError(
            f"{', '.join(map(str, places))}: no photo with a face to compare the exported files on"
        )
    return np.stack(images[:FACES])


def labels(predictor: Predictor, facts: dict[str, Any]) -> str:
    """``labels.json``: attributes in the order of the probabilities, thresholds, and how to make a face."""
    attributes = [{"name": name, "threshold": predictor.thresholds[name]} for name in predictor.attributes]
    content = {
        "attributes": attributes,
        "thresholds_from": predictor.thresholds_from,
        "input": {
            "name": "faces",
            "type": "uint8",
            "shape": ["batch", predictor.recipe.align.size, predictor.recipe.align.size, 3],
            "channels": "RGB",
        },
        **facts,
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def table(measured: Sequence[Measured]) -> list[list[str]]:
    """Size, difference and time of each form as rows of text, the first of them the titles."""
    rows = [["file", "MB", "greatest difference", *(f"ms per face, {batch} a call" for batch in BATCHES)]]
    for form in measured:
        difference = "-" if form.difference is None else f"{form.difference:.1e}"
        times = [f"{form.milliseconds[batch]:.2f}" for batch in BATCHES]
        rows.append([form.name, f"{form.megabytes:.2f}", difference, *times])
    return rows


def main() -> None:
    """Read the command line, export, and print the table."""
    parser = argparse.ArgumentParser(
        description="Export a classifier as ONNX and torch.export files, with a model card.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="a classifier.pt")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--shards", metavar="DIR", help="compare on faces of these shards")
    which.add_argument(
        "--faces", type=Path, nargs="+", metavar="PHOTO", help="compare on faces of these photos"
    )
    parser.add_argument(
        "--evaluation", type=Path, metavar="DIR", help="holds metrics.json and attributes.json"
    )
    parser.add_argument("--thresholds", type=Path, metavar="FILE", help="attributes.json of an evaluation")
    parser.add_argument(
        "--license", default="other", metavar="NAME", help="of the weights, for the model card"
    )
    options = parser.parse_args()
    if options.evaluation and not options.thresholds:
        options.thresholds = options.evaluation / "attributes.json"
    predictor = Predictor.load(options.checkpoint, options.thresholds)
    faces = faces_of_shards(options.shards) if options.shards else faces_of_photos(predictor, options.faces)
    side = predictor.recipe.align.size
    if faces.shape[1:] != (side, side, 3):
        raise UserError(f"the faces have {faces.shape[1]} pixels a side, the classifier learnt from {side}")
    measured = export(predictor, faces, options.checkpoint, options.output)
    state = checkpoint.load(options.checkpoint)
    write_text(options.output / "labels.json", labels(predictor, state["facts"]))
    evaluation = options.evaluation or evaluation_folder(options.checkpoint)
    evidence = Evidence.read(evaluation, options.checkpoint)
    rows = table(measured)
    text = card(predictor, state, evidence, rows, len(faces), options.license)
    write_text(options.output / "README.md", text)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(f"export: {options.output}/ (compared on {len(faces)} faces); README.md is the model card")


if __name__ == "__main__":
    run(main)
