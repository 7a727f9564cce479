"""A classifier as ONNX and torch.export graphs, compared with the classifier and timed."""

import statistics
import time
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from common.errors import UserError
from common.files import write_bytes
from training.data.transforms import MEAN, STD
from training.models.attribute_network import AttributeNetwork
from training.models.classifier import FILE

Probabilities = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""From aligned faces, uint8 (B, S, S, 3), to probabilities, float32 (B, A)."""

TOLERANCE: Final = 1e-4
"""Largest difference of a probability between the classifier and an exported file."""

BATCH_SIZES: Final = (1, 32)
"""Faces per call for which the time is measured."""

CALLS: Final = 7
"""Timed calls per batch size, of which the median is reported."""


class InferenceModel(nn.Module):
    """A network with its preprocessing inside: from aligned faces to probabilities.

    The resize is a product with one matrix per axis, the weights of PyTorch's antialiased bilinear
    resize, because runtimes differ in how they resize. On the CPU training rounds resized images to
    whole levels and this model does not; that moved probabilities by 0.0004 on average and by 0.015 at
    most (two classifiers, 200 faces of CelebA each).

    Args:
        network: on the CPU.
        size: side of the aligned faces in pixels.
    """

    def __init__(self, network: AttributeNetwork, size: int) -> None:
        super().__init__()
        self.network = network
        side = network.config.input_size
        axes = torch.eye(size)[None, None]
        resize = F.interpolate(axes, (side, size), mode="bilinear", antialias=True, align_corners=False)
        self.register_buffer("resize", resize[0, 0], persistent=False)
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD)[:, None, None], persistent=False)

    def forward(self, faces: Tensor) -> Tensor:
        """Probabilities, float32 (B, A), of aligned RGB faces, uint8 (B, S, S, 3)."""
        resize, mean, std = (self.get_buffer(name) for name in ("resize", "mean", "std"))
        images = resize @ faces.permute(0, 3, 1, 2).float() @ resize.T
        return self.network((images / 255 - mean) / std).float().sigmoid()


def export(network: AttributeNetwork, faces: NDArray[np.uint8], output: Path) -> list[list[str]]:
    """Write ``classifier.onnx`` and ``classifier.pt2`` to `output` beside ``classifier.pt``; measure all.

    Both graphs take aligned RGB faces, uint8 (B, S, S, 3) with any B, as ``faces`` and return
    ``probabilities``, float32 (B, A). They are compared in float32, the numbers of the exported graphs.

    Args:
        network: of the classifier.
        faces: uint8 (N, S, S, 3), on which the forms are compared.
        output: folder.

    Returns:
        Headings, then for each form its file, size in 10^6 bytes, largest difference of a probability from
        the classifier's, and median milliseconds per face at each of `BATCH_SIZES`.

    Raises:
        UserError: a written file gives other probabilities.
    """
    model = InferenceModel(network.cpu(), faces.shape[1]).eval().to(memory_format=torch.contiguous_format)
    _write_graphs(model, faces, output)
    session = onnxruntime.InferenceSession(
        str(output / "classifier.onnx"), providers=["CPUExecutionProvider"]
    )
    graph = torch.export.load(output / "classifier.pt2").module()
    forms: dict[str, Probabilities] = {
        FILE: lambda batch: _run(model, batch),
        "classifier.pt2": lambda batch: _run(graph, batch),
        "classifier.onnx": lambda batch: session.run(None, {"faces": batch})[0],
    }
    rows = [["file", "MB", "largest difference", *(f"ms per face, {size} per call" for size in BATCH_SIZES)]]
    reference = _run(model, faces)
    for name, form in forms.items():
        difference = float(np.abs(form(faces) - reference).max())
        if not difference <= TOLERANCE:
            raise UserError(
                f"{output / name}: its probabilities differ by up to {difference:.2g} from the classifier's; "
                "do not use it, and report the versions of torch, onnx and onnxruntime"
            )
        times = [f"{_milliseconds(form, faces, size):.2f}" for size in BATCH_SIZES]
        megabytes = f"{(output / name).stat().st_size / 1e6:.2f}"
        rows.append([name, megabytes, "-" if name == FILE else f"{difference:.1e}", *times])
    return rows


def _write_graphs(model: InferenceModel, faces: NDArray[np.uint8], output: Path) -> None:
    # With an example of one face, torch.export would specialise the graph to a batch of one.
    example = torch.from_numpy(np.resize(faces, (2, *faces.shape[1:])))
    dynamic = {"faces": {0: torch.export.Dim("batch", min=1, max=4096)}}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        graph = torch.export.export(model, (example,), dynamic_shapes=dynamic)
        content = BytesIO()  # on a full disk torch.export aborts the process
        torch.export.save(graph, content)
        write_bytes(output / "classifier.pt2", content.getbuffer())
        program = torch.onnx.export(
            graph,
            (example,),
            input_names=["faces"],
            output_names=["probabilities"],
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    write_bytes(output / "classifier.onnx", program.model_proto.SerializeToString())


def _run(model: nn.Module, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
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
