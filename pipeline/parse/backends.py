"""Which numbers BiSeNet computes in on which hardware: the one table, and the figures behind it.

@@FIGURES@@
"""

from typing import Final

from common.hardware import Hardware, hardware
from common.pipeline_config import ParserPrecision

INT8: Final = "int8"
"""8-bit weights and activations in ONNX Runtime; PyTorch computes in all other numbers."""

FASTEST: Final[dict[str, ParserPrecision]] = {"x86 CPU": INT8, "CPU": "auto", "GPU": "auto"}
"""What ``parse.precision: auto`` means by kind of hardware; ``auto`` here leaves it to `common.hardware`."""


def numbers(parser: str, precision: ParserPrecision, here: Hardware | None = None) -> str:
    """The numbers that `parser` computes in on a machine (None: this one).

    An explicit `precision` is obeyed; an ONNX or TorchScript file has its own.
    """
    here = here or hardware()
    if parser in ("onnx", "torchscript"):
        return f"{parser} file"
    if parser == "bisenet" and precision == "auto":
        precision = FASTEST["GPU" if here.device.type == "cuda" else "x86 CPU" if here.x86 else "CPU"]
    return precision if precision == INT8 else here.numbers(precision)
