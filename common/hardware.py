"""What this machine computes on, and in which number format: ``precision: auto`` is decided here.

A CPU without bfloat16 instructions emulates them in PyTorch, several times slower than float32, so
``auto`` is bfloat16 only where the hardware has it. ``ONEDNN_MAX_CPU_ISA`` and ``ATEN_CPU_CAPABILITY``,
which hide instructions from PyTorch, are obeyed; set to AVX2 they rehearse an older processor.
"""

import os
import sys
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TextIO

import torch

from common.pipeline_config import Precision

Dtype = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Hardware:
    """What networks run on: the GPU if there is one, else the CPU."""

    device: torch.device
    name: str  # of its class, such as ``CPU, AVX-512 with bfloat16``
    bfloat16: bool  # whether it has instructions for that
    x86: bool

    def dtype(self, precision: Precision) -> Dtype:
        """The number format in which a network computes here; an explicit `precision` is obeyed."""
        if precision != "auto":
            return precision
        if self.bfloat16:
            return "bfloat16"
        return "float16" if self.device.type == "cuda" else "float32"

    def lacks(self, precision: str) -> bool:
        """Whether an explicit `precision` is emulated here, which is slow."""
        return (precision == "bfloat16" and not self.bfloat16) or (
            precision == "float16" and self.device.type == "cpu"
        )


@cache
def hardware() -> Hardware:
    """The machine that this process runs on, examined once."""
    if torch.cuda.is_available():
        bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return Hardware(torch.device("cuda"), f"GPU, {torch.cuda.get_device_name()}", bfloat16, x86=False)
    return cpu(torch.cpu.get_capabilities(), torch.backends.cpu.get_cpu_capability(), os.environ)


def cpu(flags: Any, capability: str, environment: Any) -> Hardware:
    """A CPU, by its `flags`, named as in ``torch.cpu.get_capabilities``.

    `capability` are the instructions that PyTorch's own kernels use, such as ``AVX2``; `environment` may
    limit those of oneDNN, some of whose values leave it its bfloat16 instructions.
    """
    x86 = flags.get("architecture") == "x86_64"
    level = environment.get("ONEDNN_MAX_CPU_ISA", "").upper() or "DEFAULT"
    bfloat16 = (
        x86
        and capability not in ("DEFAULT", "AVX2")
        and any(part in level for part in ("BF16", "FP16", "AMX", "AVX10", "DEFAULT", "ALL"))
        and bool(flags.get("avx512_bf16") or flags.get("amx_bf16"))
    )
    vectors = {"AVX512": "AVX-512", "AVX512_VNNI": "AVX-512"}.get(capability, capability)
    kind = "AMX" if bfloat16 and flags.get("amx_bf16") else vectors
    name = f"CPU, {kind}" if x86 else f"CPU, {flags.get('architecture', 'unknown')}"
    return Hardware(torch.device("cpu"), name + (" with bfloat16" if bfloat16 else ""), bfloat16, x86)


def load_weights_only() -> None:
    """Let PyTorch load no pickles but those of weights, which facexlib does not ask for."""
    os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)  # PyTorch refuses to load with both
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"


def announce(stage: str, precision: str, dtype: str, workers: str, stream: TextIO | None = None) -> None:
    """Print what `stage` computes on, in which format, by which workers; warn if `precision` is emulated.

    The line goes to `stream`, by default standard output.
    """
    here = hardware()
    print(f"{stage}: {here.name}, {dtype}, {workers}", file=stream, flush=True)
    if here.lacks(precision):
        print(
            f"{stage}: warning: this machine has no instructions for {precision}, which makes it slow; "
            "`precision: auto` takes what is fast",
            file=sys.stderr,
        )
