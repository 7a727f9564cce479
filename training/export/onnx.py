"""A classifier as ONNX and torch.export graphs, compared with the classifier and timed."""

import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from common.errors import UserError
from common.files import replacing
from training.models.classifier_file import save_thresholds
from training.predict.inference_model import InferenceModel
from training.predict.predictor import Predictor

Probabilities = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""From aligned faces, uint8 (B, S, S, 3), to probabilities, float32 (B, A)."""

TOLERANCE: Final = 1e-4
"""Largest difference of a probability between the classifier and an exported file."""

BATCH_SIZES: Final = (1, 32)
"""Faces per call for which the time is measured."""

CALLS: Final = 7
"""Timed calls per batch size, of which the median is reported."""


def export(predictor: Predictor, faces: NDArray[np.uint8], source: Path, output: Path) -> list[list[str]]:
    """Write ``classifier.onnx``, ``classifier.pt2`` and ``classifier.pt`` to `output`, and measure them.

    Both graphs take aligned RGB faces, uint8 (B, S, S, 3) with any B, as ``faces`` and return
    ``probabilities``, float32 (B, A). They are compared in float32, the numbers of the exported graphs.

    Args:
        predictor: the classifier.
        faces: uint8 (N, S, S, 3), on which the forms are compared.
        source: the classifier's file; its copy in `output` has the thresholds inside.
        output: folder.

    Returns:
        Headings, then for each form its file, size in 10^6 bytes, largest difference of a probability from
        the classifier's, and median milliseconds per face at each of `BATCH_SIZES`.

    Raises:
        UserError: a written file gives other probabilities.
    """
    model = predictor.model.cpu().eval()
    output.mkdir(parents=True, exist_ok=True)
    save_thresholds(source, output / "classifier.pt", predictor.thresholds, predictor.thresholds_from)
    _write_graphs(model, faces, output)
    session = onnxruntime.InferenceSession(
        str(output / "classifier.onnx"), providers=["CPUExecutionProvider"]
    )
    graph = torch.export.load(output / "classifier.pt2").module()
    forms: dict[str, Probabilities] = {
        "classifier.pt": lambda batch: _run(model, batch),
        "classifier.pt2": lambda batch: _run(graph, batch),
        "classifier.onnx": lambda batch: session.run(None, {"faces": batch})[0],
    }
    reference = _run(model, faces)
    times = (f"ms per face, {size} per call" for size in BATCH_SIZES)
    head = ["file", "MB", "largest difference", *times]
    return [head, *(_measure(output / name, form, faces, reference) for name, form in forms.items())]


def _write_graphs(model: InferenceModel, faces: NDArray[np.uint8], output: Path) -> None:
    # With an example of one face, torch.export would specialise the graph to a batch of one.
    example = torch.from_numpy(np.resize(faces, (2, *faces.shape[1:])))
    dynamic = {"faces": {0: torch.export.Dim("batch", min=1, max=4096)}}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        graph = torch.export.export(model, (example,), dynamic_shapes=dynamic)
        # torch.export refuses the suffix of a temporary file if it is given its path.
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


def _measure(
    file: Path, probabilities: Probabilities, faces: NDArray[np.uint8], reference: NDArray[np.float32]
) -> list[str]:
    difference = float(np.abs(probabilities(faces) - reference).max())
    if not difference <= TOLERANCE:
        raise UserError(
            f"{file}: its probabilities differ by up to {difference:.2g} from the classifier's; "
            "do not use it, and report the versions of torch, onnx and onnxruntime"
        )
    times = [f"{_milliseconds(probabilities, faces, size):.2f}" for size in BATCH_SIZES]
    megabytes = f"{file.stat().st_size / 1e6:.2f}"
    return [file.name, megabytes, "-" if file.suffix == ".pt" else f"{difference:.1e}", *times]


def _run(model: torch.nn.Module, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
    with torch.inference_mode():
        return model(torch.from_numpy(batch)).numpy()


def _milliseconds(probabilities: Probabilities, faces: NDArray[np.uint8], batch_size: int) -> float:
    batch = np.resize(faces, (batch_size, *faces.shape[1:]))
    probabilities(batch)
    seconds = []
    for _ in range(CALLS):
        started = time.perf_counter()
        probabilities(batch)
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds) / batch_size
