"""Two processes on one batch: the same samples, the same draws and the same weights as one process."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from common.config import load
from common.errors import UserError
from common.layout import Layout
from tests.commands import ROOT
from training.engine import checkpoint
from training.engine.checkpoint import Checkpoints
from training.engine.distributed import Ranks
from training.models.pretrained import read_pretrained
from training.pretrain.train import pretrain

TINY = [
    *("network.width=8", "network.stem=large", "network.input_size=32", "pretrain.steps=4"),
    *("pretrain.batch_size=8", "trainer.precision=float32", "pretrain.log_every=1"),
    *("trainer.loader_workers=0", "trainer.checkpoint_minutes=0.000001", "pretrain.validate_every=null"),
]


FORKED = """
import os
import training.methods.runs, training.pretrain.train  # once for both processes
os.environ["RANK"] = str(int(not os.fork()))
"""
"""Begins a script that becomes two processes, as `torchrun` starts them, with the imports of one."""


def environment() -> dict[str, str]:
    """That of two processes which meet at a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    together = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return os.environ | {"PYTHONPATH": str(ROOT)} | together


def run_two(
    script: Path, shards: Layout, output: Path, *settings: str, stage: str = "pretrain"
) -> subprocess.CompletedProcess[str]:
    """Two processes of `script`, which takes the options of ``training.run``."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *(() if FORKED in script.read_text() else launcher), str(script)]
    command += ["--stage", stage, "--shards", str(shards.shards), "--output", str(output)]
    command += [word for setting in (*TINY, *settings) for word in ("--set", setting)]
    return subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=ROOT, env=environment())


def curve(output: Path, name: str) -> list[float]:
    file = output / "dvclive" / "plots" / "metrics" / "pretrain" / f"{name}.tsv"
    return [float(line.split("\t")[1]) for line in file.read_text().splitlines()[1:]]


SYNCHRONISING = """
import torch
from training.engine.distributed import Ranks

class Synchronising(torch.nn.BatchNorm2d):
    # Like torch.nn.SyncBatchNorm, which exists for GPUs only: no process passes it without the others.
    def forward(self, images):
        if self.training:
            torch.distributed.all_reduce(torch.ones(1))
        return super().forward(images)

def synchronise(ranks, model):
    for module in model.modules():
        if type(module) is torch.nn.BatchNorm2d:
            module.__class__ = Synchronising
    return model

Ranks.synchronise_batch_norm = synchronise
"""

MORE = ("trainer.shuffle_shards=3", "pretrain.validate_every=2")


def test_two_processes_train_as_one_that_accumulates_two_micro_batches(shards, tmp_path):
    script = tmp_path / "synchronising.py"
    script.write_text(SYNCHRONISING + "from training.run import main\nmain()\n")
    done = run_two(script, shards, tmp_path, *MORE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 processes do not divide trainer.shuffle_shards=3") == 1
    pretrain(load(settings=[*TINY, *MORE, "pretrain.accumulate=2"]), shards, tmp_path / "one")
    folder = tmp_path / "pretrain"
    two = read_pretrained(folder / "pretrained.safetensors")["network"]
    one = read_pretrained(tmp_path / "one" / "pretrained.safetensors")["network"]
    assert two.keys() == one.keys()
    for name, value in one.items():
        # Adam moves a weight whose gradient is mere rounding by up to its learning rate, 0.001, in a step.
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-3, msg=name)
    for name in ("loss", "adversarial/loss"):
        assert curve(folder, name) == pytest.approx(curve(tmp_path / "one", name), rel=1e-4)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["steps"] == 4 and metrics["val"]["samples"] > 0
    assert (done.stderr + done.stdout).count("fewer than two faces") <= 1


def test_a_batch_that_cannot_be_shared_evenly_is_refused(shards, tmp_path):
    config = load(settings=[*TINY, "pretrain.accumulate=3"])
    with pytest.raises(UserError, match=r"batch_size=8 cannot be divided into 3 equal micro-batches"):
        pretrain(config, shards, tmp_path)


OWN_OUTPUTS = """
import os, pathlib, signal, sys, torch
from training.engine.distributed import joined
from training.methods.network import AttributeObjective
from training.pretrain.train import PretextObjective
from training.run import main

sent, seen = (pathlib.Path(__file__).with_name(name) for name in ("sent", "seen"))
output = sys.argv.index("--output") + 1
sys.argv[output] += os.environ["RANK"]  # as on two nodes, each with a disk of its own

def equal(ranks, *modules):
    weights = ranks.gathered(torch.cat([p.detach().flatten() for m in modules for p in m.parameters()]))
    assert torch.equal(*weights)

def stopping(self, *arguments, real=PretextObjective.loss):
    with joined() as ranks:
        equal(ranks, self.model, self.adversary)
    if os.environ["RANK"] == "1" and not sent.exists():
        sent.touch()
        os.kill(os.getpid(), signal.SIGTERM)
    return real(self, *arguments)

def sharing(self, forward, batch, *arguments, real=AttributeObjective.loss):
    with joined() as ranks:
        equal(ranks, self.model)
        shares = ranks.gathered(batch.indices.tolist())
        assert [len(share) for share in shares] == [2, 2] and not set(shares[0]) & set(shares[1])
    seen.open("a").write("x")
    return real(self, forward, batch, *arguments)

PretextObjective.loss, AttributeObjective.loss = stopping, sharing
main()
"""


def test_a_stopped_run_of_two_nodes_is_continued_by_both_on_shares_of_batches_or_by_one(shards, tmp_path):
    config = load(settings=[*TINY, "pretrain.accumulate=2"])
    pretrain(config, shards, tmp_path / "whole")
    script = tmp_path / "own_outputs.py"
    script.write_text(FORKED + SYNCHRONISING + OWN_OUTPUTS)
    stopped = run_two(script, shards, tmp_path / "node")
    assert stopped.returncode != 0
    assert stopped.stderr.count("stopped by SIGTERM after step 1") == 1, stopped.stderr
    first, second = (tmp_path / f"node{rank}" / "pretrain" for rank in (0, 1))
    assert checkpoint.latest(first / "checkpoints", "pretrain") is not None
    assert not (second / "checkpoints").exists()
    shutil.copytree(first, tmp_path / "alone")

    # Stage 2 starts from weights that the first node alone has.
    runs = ["finetune.runs=[{labels: 1.0, steps: 4}]", "finetune.methods=[pretrained]"]
    more = [*runs, "finetune.batch_size=4", "finetune.select=val", "finetune.validate_every=2"]
    more += ["finetune.backbone_rate=0", "evaluate.resamples=2"]
    continued = run_two(script, shards, tmp_path / "node", *more, stage="all")
    assert continued.returncode == 0, continued.stderr
    assert "pretrain: resuming at step 1" in continued.stdout
    assert (tmp_path / "seen").read_text() == "x" * 8
    (run,) = json.loads((tmp_path / "node0" / "finetune" / "runs.json").read_text())
    assert run["steps"] == 4
    assert (tmp_path / "node0" / "finetune" / "pretrained-100%" / "classifier.pt").is_file()

    pretrain(config, shards, tmp_path / "alone")
    for output in (first, tmp_path / "alone"):
        assert curve(output, "loss") == pytest.approx(curve(tmp_path / "whole", "loss"), rel=1e-4)


FAILING = """
import os
from common.errors import UserError
from training.data.loader import TrainingData
from training.run import main

real = TrainingData.batches

def failing(*arguments):
    for number, batch in enumerate(real(*arguments)):
        if number == 2 and os.environ["RANK"] == "1":
            raise UserError("a shard cannot be read")
        yield batch

TrainingData.batches = failing
main()
"""


def test_an_error_in_one_process_ends_all_with_a_checkpoint(shards, tmp_path):
    script = tmp_path / "failing.py"
    script.write_text(FORKED + FAILING)
    done = run_two(script, shards, tmp_path, "trainer.checkpoint_minutes=60")
    assert done.returncode != 0
    assert "a shard cannot be read" in done.stderr
    assert "another process failed" in done.stderr
    assert [path.name for path in (tmp_path / "pretrain" / "checkpoints").iterdir()] == ["step-000000002.pt"]


ENDS = """
import os
from training.engine.distributed import joined
with joined() as ranks:
    ranks.maximum(1)
    if ranks.first:
        os._exit(9)
    ranks.maximum(1)
"""


def test_the_end_of_another_process_is_said_in_a_sentence():
    command, together = [sys.executable, "-c", ENDS], environment()
    other, this = (
        subprocess.Popen(command, env=together | {"RANK": rank}, stderr=subprocess.PIPE, text=True)
        for rank in "01"
    )
    assert "UserError: another process of this run has ended" in this.communicate(timeout=600)[1]
    assert (other.wait(), this.returncode) == (9, 1)


@pytest.mark.parametrize(("error", "kept"), [(RuntimeError("gloo"), 1), (UserError("another failed"), 0)])
def test_a_process_that_outlives_the_first_keeps_a_checkpoint(tmp_path, error, kept):
    second, run = Ranks(1, 2, torch.device("cpu")), Mock(done=3, state=dict)
    checkpoints = Checkpoints("a run", tmp_path, load(), {"code": ""}, second)
    with pytest.raises(type(error)), checkpoints.saving_on_error(run):
        raise error
    assert len(list(tmp_path.iterdir())) == kept
