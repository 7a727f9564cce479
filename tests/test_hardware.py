"""What ``precision`` means on machines of every kind; steps that are not logged let no device wait."""

import os
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common import hardware as module
from common.config import load
from common.hardware import Hardware, announce, cpu, hardware
from common.parsing.parser import effective_precision
from tests.commands import run_python
from training.data import loader
from training.data.sampler import sequential_batches
from training.data.samples import read_samples
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
    done = run_python(code, env=os.environ | older, check=True)
    assert done.stdout == "float32 CPU, AVX2\n"


READS = ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__")

SETTINGS = [
    *("network.width=8", "network.stem=large", "network.input_size=32", "pretrain.steps=4"),
    *("pretrain.log_every=4", "pretrain.batch_size=4", "pretrain.validate_every=null"),
    *("pretrain.tasks.rotation.position_of_unrotated=false", "finetune.runs=[{labels: 0.5, steps: 4}]"),
    *("finetune.methods=[pretrained]", "finetune.batch_size=4", "finetune.validate_every=null"),
]


class Reads:
    """The calls that read tensors, from the start of the first step to the end of the third."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.steps = 0
        self._counting = False
        for name in READS:
            patch.setattr(Tensor, name, self._counted(name, getattr(Tensor, name)))
        # The layer that is faster on a CPU reads its slope; a GPU computes this one.
        patch.setattr(PReLU, "forward", nn.PReLU.forward)
        patch.setattr(torch, "bincount", self._counted("bincount", torch.bincount))
        patch.setattr(Tensor, "to", self._copied(Tensor.to))

    def around(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            self._counting = self.steps < 3
            self.steps += 1
            result = step(*arguments, **named)
            self._counting = self.steps < 3
            return result

        return counted

    def _counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            caller = sys._getframe(1).f_code.co_name
            # The side of the patches is drawn on the host, so reading it waits for nothing.
            if self._counting and caller != "random_patches":
                self.calls.append(f"{name} in {caller}")
            return real(*arguments, **named)

        return call

    def _copied(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            moves = any(isinstance(argument, torch.device) for argument in arguments)
            if self._counting and moves and not named.get("non_blocking"):
                self.calls.append(f"a copy that waits in {sys._getframe(1).f_code.co_name}")
            return real(*arguments, **named)

        return call


def test_no_step_that_is_not_logged_reads_a_tensor(shards, tmp_path, monkeypatch):
    config = load(settings=SETTINGS)
    for stage in (
        lambda: pretrain(config, shards, tmp_path),
        lambda: finetune(config, shards, tmp_path / "pretrained.safetensors", tmp_path / "runs"),
    ):
        with monkeypatch.context() as patch:
            reads = Reads(patch)
            patch.setattr(Trainer, "step", reads.around(Trainer.step))
            stage()
        assert (reads.calls, reads.steps) == ([], 4)


def test_batches_for_a_gpu_are_pinned_where_they_are_read(shards, monkeypatch):
    """With a stand-in for the GPU and for the memory that it copies from."""
    gpu = Hardware(torch.device("cuda"), "GPU", bfloat16=True, x86=False)
    monkeypatch.setattr(loader, "hardware", lambda: gpu)
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor[:0])
    faces = read_samples(shards, ("train",))
    (batch,) = loader.load(faces, sequential_batches(faces, len(faces)), {"jpg"}, 1, load().stream)
    assert [len(tensor) for tensor in vars(batch).values()] == [0] * len(vars(batch))
