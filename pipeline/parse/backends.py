"""Which numbers BiSeNet computes in on which hardware: the one table, and the figures behind it.

Milliseconds of CPU per face at 448 pixels on one core, four faces at a time, and the mean F1 of the masks
on 200 pairs of CelebAMask-HQ (``python -m benchmarks.parser_quality``). Plain is facexlib's loop at 512
pixels. AVX-512 is an AMD EPYC of the Zen 4 generation, with VNNI and bfloat16; AVX2 is another machine,
without bfloat16.

==========================  =======  ====  =====
numbers, backend            AVX-512  AVX2  F1
==========================  =======  ====  =====
plain, float32, PyTorch         322   541
float32, PyTorch                211   284  0.827
float32, ONNX Runtime                 251
float32, OpenVINO                     273
bfloat16, PyTorch               108  2670  0.827
int8, ONNX Runtime               54   126  0.826
==========================  =======  ====  =====

The F1 are of the AVX-512 machine, and the AVX2 figure of int8 is of a file with weights of 8 bits instead of
7. AMX, ARM and GPUs were not at hand: CPUs with AMX are taken for other x86 CPUs, and all others use PyTorch.
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
