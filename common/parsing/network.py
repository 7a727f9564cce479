"""Networks from faces to scores or features: their interface and input, and those in files.

ONNX files are run by ONNX Runtime, TorchScript files by PyTorch, both in the file's precision.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime as runtime
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from onnx.external_data_helper import uses_external_data
from torch import Tensor, nn

from common.errors import UserError
from common.hardware import hardware
from common.parsing.class_map import InputFormat

_Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Network:
    """A loaded network."""

    # float32 (B, 3, S, S) normalised pixels, in the channel order of its description, to a tuple: the outputs
    # that the description names, such as (B, C, h, w) scores of the C classes of a parser, then the feature
    # maps of a parser that has some, float (B, C, h, w) each
    outputs: Callable[[Tensor], tuple[Tensor, ...]]
    device: torch.device  # the device of its input


def normalised(
    faces: NDArray[np.uint8], input_format: InputFormat, size: int, device: torch.device
) -> Tensor:
    """RGB faces, uint8 (B, S, S, 3), as the network's input, float32 (B, 3, size, size).

    Resized bilinearly after normalisation, which is linear and costs less on the smaller image. On CPUs
    OpenCV resizes, five times as fast as PyTorch.
    """
    scale = np.array([1 / (input_format.scale * deviation) for deviation in input_format.std], np.float32)
    shift = np.divide(input_format.mean, input_format.std, dtype=np.float32)
    order = [0, 1, 2] if input_format.channels == "RGB" else [2, 1, 0]
    if device.type == "cpu":
        return torch.from_numpy(_resized_by_opencv(faces, order, scale, shift, size))
    pixels = torch.from_numpy(faces)
    if device.type == "cuda":
        pixels = pixels.pin_memory()
    return _resized_by_pytorch(pixels.to(device, non_blocking=True), order, scale, shift, size)


def _resized_by_opencv(
    faces: NDArray[np.uint8], order: list[int], scale: _Floats, shift: _Floats, size: int
) -> _Floats:
    pixels = np.empty((len(faces), 3, size, size), np.float32)
    for face, planes in zip(faces, pixels, strict=True):
        for channel, plane in enumerate(planes):
            small = face[..., order[channel]] * scale[channel] - shift[channel]
            cv2.resize(small, (size, size), dst=plane, interpolation=cv2.INTER_LINEAR)
    return pixels


def _resized_by_pytorch(faces: Tensor, order: list[int], scale: _Floats, shift: _Floats, size: int) -> Tensor:
    factor, minus = (torch.from_numpy(values).to(faces.device)[:, None, None] for values in (scale, shift))
    pixels = faces.permute(0, 3, 1, 2)[:, order].float() * factor - minus
    return F.interpolate(pixels, (size, size), mode="bilinear", align_corners=False)


def check_whole(path: Path) -> None:
    """Check that an ONNX file holds all its weights, by which its hash tells what the network computes.

    A file that is no ONNX passes: `load_onnx` refuses it.

    Raises:
        UserError: some weights lie in another file.
    """
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except Exception:  # protobuf's, which has no base class of Python's
        return
    constants = (field.t for node in graph.node for field in node.attribute if field.HasField("t"))
    if any(uses_external_data(tensor) for tensor in chain(graph.initializer, constants)):
        raise UserError(
            f"{path}: its weights lie in another file, of which a change would not be noticed; put them into "
            f"this one: python -c \"import onnx; onnx.save(onnx.load('{path.name}'), 'whole.onnx')\""
        )


def load_onnx(path: Path, input_format: InputFormat, size: int, maps: Sequence[str] = ()) -> Network:
    """A session on one thread; a file whose batch size is fixed gets its batches one by one.

    `size` is the side of its input in pixels; outputs called `maps` follow, if it has them all.

    Raises:
        UserError: the file is not a network with one input of
            `size` pixels a side and the output that the description names.
    """
    available = runtime.get_available_providers()
    providers = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # ONNX Runtime's own errors share no base class
        raise UserError(f"{path}: ONNX Runtime cannot read it: {error}") from error
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or max(input_format.outputs) >= len(outputs):
        raise UserError(
            f"{path}: has {len(inputs)} inputs and {len(outputs)} outputs; one input is needed, "
            f"and its description names output {max(input_format.outputs)} (counted from 0)"
        )
    shape = inputs[0].shape
    sides = shape[2:4] if input_format.layout == "NCHW" else shape[1:3]
    if any(isinstance(side, int) and side != size for side in sides):
        raise UserError(f"{path}: takes {sides} pixels, not {size}; set `size` in its description")
    one_by_one = shape[0] == 1
    if isinstance(shape[0], int) and not one_by_one:
        raise UserError(f"{path}: takes batches of exactly {shape[0]}; export it with a free batch size or 1")
    wanted = [outputs[number].name for number in input_format.outputs]
    if {*maps} <= {each.name for each in outputs}:
        wanted += maps

    def run(pixels: Tensor) -> tuple[Tensor, ...]:
        values = pixels.numpy() if input_format.layout == "NCHW" else pixels.permute(0, 2, 3, 1).numpy()
        values = np.ascontiguousarray(values, np.float32)
        groups = np.array_split(values, len(values)) if one_by_one else [values]
        runs = [session.run(wanted, {inputs[0].name: group}) for group in groups]
        joined = (np.concatenate(parts).astype(np.float32, copy=False) for parts in zip(*runs, strict=True))
        return tuple(_channels_first(torch.from_numpy(output), input_format) for output in joined)

    return Network(run, torch.device("cpu"))


def load_torchscript(path: Path, input_format: InputFormat) -> Network:
    """The scripted network; its code runs in TorchScript's interpreter, not in Python's.

    Raises:
        UserError: the file is not a TorchScript archive, or lacks the output that the description names.
    """
    device = hardware().device
    try:
        model = torch.jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError) as error:
        # What follows is advice that does not fit.
        raise UserError(f"{path}: not a TorchScript file: {str(error).split('. ')[0]}") from error

    def run(pixels: Tensor) -> tuple[Tensor, ...]:
        values = pixels if input_format.layout == "NCHW" else pixels.permute(0, 2, 3, 1).contiguous()
        outputs = model(values)
        outputs = (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
        if max(input_format.outputs) >= len(outputs):
            raise UserError(
                f"{path}: has {len(outputs)} outputs; its description names output "
                f"{max(input_format.outputs)}"
            )
        return tuple(_channels_first(outputs[each].float(), input_format) for each in input_format.outputs)

    return Network(run, device)


def _channels_first(output: Tensor, input_format: InputFormat) -> Tensor:
    return output if input_format.layout == "NCHW" or output.ndim != 4 else output.permute(0, 3, 1, 2)


def export_onnx(network: nn.Module, size: int, path: Path, outputs: Sequence[str]) -> None:
    """Write a network of images, float32 (B, 3, size, size) with any B, to an ONNX file, with these outputs.

    It is in evaluation mode, on the CPU.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.zeros(2, 3, size, size),),
            str(path),
            dynamo=True,
            external_data=False,
            dynamic_shapes=({0: torch.export.Dim("faces")},),
            input_names=["pixels"],
            output_names=outputs,
            verbose=False,
        )
