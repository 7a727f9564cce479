"""A network as ONNX and torch.export graphs."""

import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from common.files import write_bytes
from training.data.transforms import MEAN, STD
from training.export.comparison import Probabilities
from training.models.attribute_network import AttributeNetwork
from training.models.exported import GRAPH


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


def export_network(
    network: AttributeNetwork, labels: str, faces: NDArray[np.uint8], output: Path
) -> dict[str, Probabilities]:
    """Write ``classifier.onnx`` and ``classifier.pt2`` to `output`.

    Both graphs take aligned RGB faces, uint8 (B, S, S, 3) with any B, as ``faces`` and return
    ``probabilities``, float32 (B, A), in float32.

    Args:
        network: of the classifier.
        labels: the text of ``config.json``, which the ONNX file holds too.
        faces: uint8 (N, S, S, 3), as an example.
        output: folder.

    Returns:
        What the network and both files compute, by name.
    """
    model = InferenceModel(network.cpu(), faces.shape[1]).eval().to(memory_format=torch.contiguous_format)
    _write_graphs(model, labels, faces, output)
    session = onnxruntime.InferenceSession(str(output / GRAPH), providers=["CPUExecutionProvider"])
    graph = torch.export.load(output / "classifier.pt2").module()
    return {
        "classifier.pt": lambda batch: _run(model, batch),
        "classifier.pt2": lambda batch: _run(graph, batch),
        GRAPH: lambda batch: session.run(None, {"faces": batch})[0],
    }


def _write_graphs(model: InferenceModel, labels: str, faces: NDArray[np.uint8], output: Path) -> None:
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
    content_of_graph = program.model_proto
    content_of_graph.metadata_props.add(key="labels", value=labels)
    write_bytes(output / GRAPH, content_of_graph.SerializeToString())


def _run(model: nn.Module, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
    with torch.inference_mode():
        return model(torch.from_numpy(batch)).numpy()
