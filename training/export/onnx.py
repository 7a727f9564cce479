"""Exported files: a network as ONNX and torch.export graphs; a probe without PyTorch, as the networks that it
reads in ONNX, its arrays, and a script of NumPy. And what they compute against what the classifier does.
"""

import json
import statistics
import timeit
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from common.classes import CLASSES
from common.config import Config
from common.errors import UserError
from common.files import replacing, write_bytes, write_text
from common.layout import Layout
from common.parsing.class_map import InputFormat
from common.parsing.facexlib_networks import MAPS, bisenet
from common.parsing.masks import resampling
from common.parsing.network import export_onnx
from common.parsing.parser import INT8, ParserFile
from common.parsing.quantize import int8_file
from common.photo import Refused
from common.weights import file_sha256
from training.data.loader import load
from training.data.sampler import sequential_batches
from training.data.samples import read_samples
from training.export import standalone
from training.models.attribute_network import AttributeNetwork
from training.models.blocks import MEAN, STD
from training.models.exported import ARRAYS, GRAPH
from training.models.probe import POWER, WIDTH, Probe, RegionProbe
from training.predict.predict import photos_in
from training.predict.predictor import Predictor

SCRIPT: Final = "predict.py"
PARSER: Final = "parser.onnx"
FACES: Final = 64  # On at most so many faces the exported files are compared
CALLS: Final = 7  # Timed calls, of which the median is reported

# Largest difference of a probability between the classifier and an exported file. Networks differ by less
# than 1e-4; a region probe by up to 2e-3 on faces whose labels it knows, since their distance of 0 is 1e-6 in
# float32 and its kernel is steep there.
TOLERANCE: Final = 3e-3

# From aligned faces, uint8 (B, S, S, 3), to probabilities, (B, A).
Probabilities = Callable[[NDArray[np.uint8]], NDArray[np.floating]]


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
        labels: the text of ``config.json``, which the ONNX file holds too.
        faces: uint8 (N, S, S, 3), as an example.

    Returns:
        What the network and both files compute, by name.
    """
    model = InferenceModel(network.cpu(), faces.shape[1]).eval().to(memory_format=torch.contiguous_format)
    # With an example of one face, torch.export would specialise the graph to a batch of one.
    example = torch.from_numpy(np.resize(faces, (2, *faces.shape[1:])))
    dynamic = {"faces": {0: torch.export.Dim("batch", min=1, max=4096)}}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        graph = torch.export.export(model, (example,), dynamic_shapes=dynamic)
        content = BytesIO()  # on a full disk torch.export aborts the process
        torch.export.save(graph, content)
        write_bytes(output / "classifier.pt2", content.getbuffer())
        names: dict[str, Any] = {"input_names": ["faces"], "output_names": ["probabilities"]}
        program = torch.onnx.export(graph, (example,), **names, dynamo=True, verbose=False)
    assert program is not None
    content_of_graph = program.model_proto  # a new one each time
    content_of_graph.metadata_props.add(key="labels", value=labels)
    write_bytes(output / GRAPH, content_of_graph.SerializeToString())
    session = onnxruntime.InferenceSession(str(output / GRAPH), providers=["CPUExecutionProvider"])
    loaded = torch.export.load(output / "classifier.pt2").module()
    return {
        "classifier.pt": lambda batch: _run(model, batch),
        "classifier.pt2": lambda batch: _run(loaded, batch),
        GRAPH: lambda batch: session.run(None, {"faces": batch})[0],
    }


def _run(model: nn.Module, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
    with torch.inference_mode():
        return model(torch.from_numpy(batch)).numpy()


def export_networks(parser: ParserFile, output: Path) -> dict[str, Any]:
    """Write the parser and the networks of features, with a description beside each.

    Returns:
        What `training.data.provenance.parsing` says, of these files, whose names are relative.

    Raises:
        UserError: a network cannot be had as ONNX, or the script cannot read it.
    """
    size, class_map = parser.size, parser.class_map
    if parser.kind not in ("bisenet", "onnx") or class_map.classes != CLASSES or class_map.layout != "NCHW":
        raise UserError(
            f"{parser.path}: the faces were parsed by it, but a probe can be exported with bisenet alone"
        )
    if parser.kind == "onnx" or parser.computes_in == INT8:
        file = parser.path if parser.kind == "onnx" else int8_file(parser.path, parser.sha256, size)
        write_bytes(output / PARSER, file.read_bytes())
    else:
        with replacing(output / PARSER) as temporary:
            export_onnx(bisenet(parser.path), size, temporary, ["logits", *MAPS])
    files = {each.name: f"features/{each.name}.onnx" for each in parser.embedders}
    forms: dict[str, InputFormat] = {PARSER: class_map.model_copy(update={"size": size})}
    for each in parser.embedders:
        if each.path.suffix != ".onnx" or each.input_format.layout != "NCHW":
            raise UserError(f"{each.path}: not an ONNX file of NCHW layout, so it cannot be exported")
        forms[files[each.name]] = each.input_format
        write_bytes(output / files[each.name], each.path.read_bytes())
    for name, form in forms.items():
        write_text((output / name).with_suffix(".json"), form.model_dump_json(indent=1) + "\n")
    return {
        **{"parser": "onnx", "size": size, "sha256": file_sha256(output / PARSER)},
        "networks": {name: file_sha256(output / file) for name, file in files.items()},
        **{"numerics": ["onnx file"], "file": PARSER, "features_from": [*files.values()]},
    }


def export_probe(
    probe: Probe, labels: str, parser: ParserFile, side: int, output: Path
) -> dict[str, Probabilities]:
    """Write `ARRAYS` and the script to the folder of the networks; gives what it computes, by its name.

    Args:
        labels: the text of ``config.json``.
        side: of aligned faces, in pixels.

    Raises:
        UserError: the probe reads no features of the parser.
    """
    if "pooled" not in probe.blocks:
        raise UserError("the classifier reads no features of bisenet, so it cannot be exported; fit it again")
    state = probe.state()
    arrays = {name: value.numpy() for name, value in state.items() if isinstance(value, torch.Tensor)}
    other = {name: value for name, value in state.items() if name not in arrays}
    corners = parser.class_map.coarse == "corners"
    extras: dict[str, Any] = {"blocks": probe.blocks, "networks": [each.name for each in parser.embedders]}
    extras["resize"] = resampling(parser.size // 8, parser.size, side, corners).numpy()
    if isinstance(probe, RegionProbe):
        share = probe.prediction_share
        extras |= {"columns": probe.columns, "prediction_share": share, "width": WIDTH, "power": POWER}
    extras |= {"state": json.dumps(other), "labels": labels}
    with replacing(output / ARRAYS) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays, **extras)  # type: ignore[arg-type]
    write_bytes(output / SCRIPT, Path(standalone.__file__).read_bytes())
    logits_of = standalone.load(output)
    return {SCRIPT: lambda faces: 1 / (1 + np.exp(-np.stack([logits_of(face) for face in faces])))}


def faces_of_shards(shards: str, config: Config) -> NDArray[np.uint8]:
    """The first test faces of finished shards, or others without any, at most `FACES`: uint8 (N, S, S, 3).

    Raises:
        UserError: there are no shards, or they hold no samples.
    """
    layout = Layout.at(shards)
    samples = read_samples(layout, ("test",))
    if not len(samples) and not len(samples := read_samples(layout, ("train", "val", "unlabelled"))):
        raise UserError(f"{shards}: the shards hold no samples; name others with --shards")
    samples = samples.take(np.arange(min(FACES, len(samples))))
    (batch,) = load(samples, sequential_batches(samples, FACES), {"jpg"}, 0, config.stream)
    return batch.images.permute(0, 2, 3, 1).numpy()


def faces_of_photos(predictor: Predictor, paths: Sequence[Path]) -> NDArray[np.uint8]:
    """The aligned faces of photos, at most `FACES`: uint8 (N, S, S, 3).

    Raises:
        UserError: no photo has a face.
    """
    images: list[NDArray[np.uint8]] = []
    for photo in photos_in(list(paths))[0]:
        with suppress(Refused):
            if not photo.refused and len(images) < FACES:
                images += [face.image for face in predictor(photo.file)]
    if not images:
        names = ", ".join(map(str, paths))
        raise UserError(f"{names}: no photo with a face to compare the exported files on")
    return np.stack(images[:FACES])


def compare(
    forms: Mapping[str, Probabilities], faces: NDArray[np.uint8], batches: Sequence[int], output: Path
) -> list[list[str]]:
    """A table of forms of one classifier, the first of which is the classifier itself.

    Args:
        forms: by the name of their file in `output`.
        faces: uint8 (N, S, S, 3), on which they are compared.
        batches: numbers of faces per call whose time is measured.

    Returns:
        Headings, then of each form its file, size in 10^6 bytes, largest difference of a probability from
        the classifier's, and median milliseconds per face with each number of faces.

    Raises:
        UserError: a form gives other probabilities.
    """
    rows = [["file", "MB", "largest difference", *(f"ms per face, {size} per call" for size in batches)]]
    reference = next(iter(forms.values()))(faces)
    for name, form in forms.items():
        difference = float(np.abs(form(faces) - reference).max())
        if not difference <= TOLERANCE:
            raise UserError(
                f"{output / name}: its probabilities differ by up to {difference:.2g} from the classifier's; "
                "do not use it, and report the versions of torch, onnx and onnxruntime"
            )
        size = f"{(output / name).stat().st_size / 1e6:.2f}" if (output / name).is_file() else "-"
        times = (_milliseconds(form, faces, each) for each in batches)
        rows.append([name, size, f"{difference:.1e}", *times])
    return rows


def _milliseconds(form: Probabilities, faces: NDArray[np.uint8], batch: int) -> str:
    given = np.resize(faces, (batch, *faces.shape[1:]))
    seconds = timeit.repeat(lambda: form(given), number=1, repeat=CALLS)
    return f"{1000 * statistics.median(seconds) / batch:.2f}"
