"""Steps that are not logged do not make the device wait for the host.

No GPU is needed: on every device, the calls that are counted here read a value of a tensor.
"""

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.config import load
from common.hardware import Hardware
from training.data import loader
from training.data.sampler import sequential_batches
from training.data.samples import read_samples
from training.engine.trainer import Trainer
from training.methods.runs import finetune
from training.models.blocks import PReLU
from training.pretrain.train import pretrain

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
