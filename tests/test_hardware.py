"""What ``precision`` means on machines of every kind; steps that are not logged let no device wait."""

import os
import sys
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from common import hardware as module
from common.config import load
from common.hardware import Hardware, announce, cpu, hardware
from common.parsing.parser import effective_precision
from tests.commands import run_python
from training.engine.trainer import Trainer
from training.methods.runs import finetune
from training.models.blocks import PReLU
from training.pretrain.train import pretrain

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
def test_a_cpu_computes_in_bfloat16_only_if_it_has_instructions(
    flags, capability, environment, name, numbers
):
    here = cpu(flags, capability, environment)
    assert here.name == name
    assert here.dtype("auto") == numbers
    assert here.dtype("bfloat16") == "bfloat16"
    assert here.lacks("bfloat16") == (numbers == "float32")


def test_a_gpu_without_bfloat16_computes_in_float16_and_the_parser_on_x86_cpus_in_int8():
    for bfloat16, numbers in ((True, "bfloat16"), (False, "float16")):
        here = Hardware(torch.device("cuda"), "GPU", bfloat16, x86=False)
        assert here.dtype("auto") == effective_precision("bisenet", "auto", here) == numbers
    haswell = cpu(HASWELL, "AVX2", {})
    assert effective_precision("bisenet", "auto", haswell) == "int8"
    assert effective_precision("bisenet", "auto", cpu(ARM, "DEFAULT", {})) == "float32"
    assert effective_precision("bisenet", "float32", haswell) == "float32"
    assert effective_precision("parsenet", "auto", haswell) == "float32"


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
    done = run_python(code, env=os.environ | older, check=True)
    assert done.stdout == "float32 CPU, AVX2\n"


READS = ("item", "tolist", "cpu", "numpy", "bincount", "__bool__", "__int__", "__float__", "__index__")

SETTINGS = [
    *("network.width=8", "network.stem=large", "network.input_size=32", "pretrain.steps=4"),
    *("pretrain.log_every=4", "pretrain.batch_size=4", "pretrain.validate_every=null"),
    *("pretrain.tasks.rotation.position_of_unrotated=false", "finetune.runs=[{labels: 0.5, steps: 4}]"),
    *("finetune.methods=[pretrained]", "finetune.batch_size=4", "finetune.validate_every=null"),
]


class Reads(TorchFunctionMode):
    """Notes the calls of this thread that read tensors, or copy them while all wait."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        name, caller = function.__name__, sys._getframe(1).f_code.co_name
        copied = name == "to" and any(isinstance(argument, torch.device) for argument in arguments)
        waits = name in READS or (copied and not (named or {}).get("non_blocking"))
        if waits and caller != "random_patches":  # whose side is drawn on the host
            self.calls.append(f"{name} in {caller}")
        return function(*arguments, **(named or {}))


def test_no_step_that_is_not_logged_reads_a_tensor(shards, tmp_path, monkeypatch):
    config, reads, real, steps = load(settings=SETTINGS), Reads(), Trainer.step, [0]

    def step(*arguments: Any) -> Any:
        steps[0] += 1
        if steps[0] % 4 == 1:
            reads.__enter__()
        values = real(*arguments)
        if steps[0] % 4 == 3:  # the fourth one is logged
            reads.__exit__(None, None, None)
        return values

    # The layer that is faster on a CPU reads its slope; a GPU computes this one.
    monkeypatch.setattr(PReLU, "forward", nn.PReLU.forward)
    monkeypatch.setattr(Trainer, "step", step)
    pretrain(config, shards, tmp_path)
    finetune(config, shards, tmp_path / "pretrained.safetensors", tmp_path / "runs")
    assert (reads.calls, steps) == ([], [8])
