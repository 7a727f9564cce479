"""A parser or another network from an ONNX file, run by ONNX Runtime in the file's precision."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as runtime
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.errors import UserError
from pipeline.parse.class_map import InputFormat
from pipeline.parse.network import Network


def load(path: Path, input_format: InputFormat, size: int) -> Network:
    """A session on one thread; a file whose batch size is fixed gets its batches one by one.

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
    if len(inputs) != 1 or input_format.output >= len(outputs):
        raise UserError(
            f"{path}: has {len(inputs)} inputs and {len(outputs)} outputs; one input is needed, "
            f"and its description names output {input_format.output} (counted from 0)"
        )
    shape = inputs[0].shape
    sides = shape[2:4] if input_format.layout == "NCHW" else shape[1:3]
    if any(isinstance(side, int) and side != size for side in sides):
        raise UserError(f"{path}: takes {sides} pixels, not {size}; set `size` in its description")
    group = shape[0] if isinstance(shape[0], int) else None
    if group not in (None, 1):
        raise UserError(f"{path}: takes batches of exactly {group}; export it with a free batch size or 1")
    names, output = inputs[0].name, outputs[input_format.output].name
    others = [each.name for each in outputs if each.name != output]

    def run(wanted: list[str], pixels: Tensor) -> tuple[Tensor, ...]:
        values = pixels.numpy() if input_format.layout == "NCHW" else pixels.permute(0, 2, 3, 1).numpy()
        values = np.ascontiguousarray(values, np.float32)
        groups = np.array_split(values, len(values)) if group else [values]
        runs = [session.run(wanted, {names: values}) for values in groups]
        return tuple(
            _channels_first(np.concatenate(parts), input_format) for parts in zip(*runs, strict=True)
        )

    return Network(
        lambda pixels: run([output], pixels)[0],
        torch.device("cpu"),
        lambda pixels: run([output, *others], pixels),
    )


def _channels_first(values: NDArray[Any], input_format: InputFormat) -> Tensor:
    result = torch.from_numpy(values.astype(np.float32, copy=False))
    return result if input_format.layout == "NCHW" or result.ndim != 4 else result.permute(0, 3, 1, 2)
