"""A parser or another network from a TorchScript file, run in the file's precision."""

from pathlib import Path

import torch
from torch import Tensor

from common.errors import UserError
from common.hardware import hardware
from pipeline.parse.class_map import InputFormat
from pipeline.parse.network import Network


def load(path: Path, input_format: InputFormat) -> Network:
    """The scripted network; its code runs in TorchScript's interpreter, not in Python's.

    Raises:
        UserError: the file is not a TorchScript archive, or lacks the output that the description names.
    """
    device = hardware().device
    try:
        model = torch.jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{path}: not a TorchScript file: {str(error).splitlines()[0]}") from error

    def scores(pixels: Tensor) -> Tensor:
        values = pixels if input_format.layout == "NCHW" else pixels.permute(0, 2, 3, 1).contiguous()
        outputs = model(values)
        outputs = (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
        if input_format.output >= len(outputs):
            raise UserError(
                f"{path}: has {len(outputs)} outputs; its description names output {input_format.output}"
            )
        result: Tensor = outputs[input_format.output].float()
        return result if input_format.layout == "NCHW" or result.ndim != 4 else result.permute(0, 3, 1, 2)

    return Network(scores, device)
