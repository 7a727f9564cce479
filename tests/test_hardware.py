"""What ``precision: auto`` means on machines of every kind, and what an explicit one does."""

import os
import subprocess
import sys

import pytest
import torch

from common import hardware as module
from common.hardware import Hardware, announce, cpu, hardware
from common.parsing.parser import effective_precision

ZEN4 = {"architecture": "x86_64", "avx2": True, "avx512_f": True, "avx512_bf16": True, "amx_bf16": False}
SAPPHIRE_RAPIDS = ZEN4 | {"amx_bf16": True}
HASWELL = {"architecture": "x86_64", "avx2": True}
ARM = {"architecture": "aarch64"}
AVX512 = "CPU, AVX-512 with bfloat16"


@pytest.mark.parametrize(
    ("flags", "capability", "environment", "name", "numbers"),
    [
        (ZEN4, "AVX512", {}, AVX512, "bfloat16"),
        (SAPPHIRE_RAPIDS, "AVX512", {}, "CPU, AMX with bfloat16", "bfloat16"),
        (HASWELL, "AVX2", {}, "CPU, AVX2", "float32"),
        (ZEN4, "AVX2", {"ONEDNN_MAX_CPU_ISA": "AVX2"}, "CPU, AVX2", "float32"),
        (ZEN4, "AVX512", {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}, "CPU, AVX-512", "float32"),
        (ZEN4, "AVX512", {"ONEDNN_MAX_CPU_ISA": "avx512_core_bf16"}, AVX512, "bfloat16"),
        (ARM, "DEFAULT", {}, "CPU, aarch64", "float32"),
    ],
)
def test_a_cpu_computes_in_bfloat16_only_if_it_has_instructions_for_it(
    flags, capability, environment, name, numbers
):
    here = cpu(flags, capability, environment)
    assert here.name == name
    assert here.dtype("auto") == numbers
    assert here.dtype("bfloat16") == "bfloat16"
    assert here.lacks("bfloat16") == (numbers == "float32")


@pytest.mark.parametrize(("bfloat16", "numbers"), [(True, "bfloat16"), (False, "float16")])
def test_a_gpu_without_bfloat16_computes_in_float16(bfloat16, numbers):
    here = Hardware(torch.device("cuda"), "GPU", bfloat16, x86=False)
    assert here.dtype("auto") == numbers
    assert effective_precision("bisenet", "auto", here) == numbers


def test_the_parser_computes_in_int8_on_x86_cpus_and_in_pytorch_elsewhere():
    assert effective_precision("bisenet", "auto", cpu(HASWELL, "AVX2", {})) == "int8"
    assert effective_precision("bisenet", "auto", cpu(ARM, "DEFAULT", {})) == "float32"
    assert effective_precision("bisenet", "float32", cpu(HASWELL, "AVX2", {})) == "float32"
    assert effective_precision("parsenet", "auto", cpu(HASWELL, "AVX2", {})) == "float32"


def test_what_is_computed_on_is_one_line_and_slow_numbers_are_warned_of(monkeypatch, capsys):
    monkeypatch.setattr(module, "hardware", lambda: cpu(HASWELL, "AVX2", {}))
    announce("parse", "auto", "int8", "2 workers x 1 thread")
    assert capsys.readouterr() == ("parse: CPU, AVX2, int8, 2 workers x 1 thread\n", "")
    announce("parse", "bfloat16", "bfloat16", "2 workers x 1 thread")
    assert "no instructions for bfloat16" in capsys.readouterr().err


def test_the_rehearsal_of_an_older_processor_hides_its_bfloat16():
    if not hardware().x86:
        pytest.skip("needs an x86 CPU")
    code = "from common.hardware import hardware; here = hardware(); print(here.dtype('auto'), here.name)"
    older = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | older, capture_output=True, text=True, check=True
    )
    assert done.stdout == "float32 CPU, AVX2\n"
