"""Weights of losses that follow from their gradients on the backbone."""

from pathlib import Path

import pytest
import torch
from torch import nn

from common.config import load
from common.layout import Layout
from tests.test_networks_by_name import NAMES, batch, small
from tests.test_training_distributed import EQUAL_WEIGHTS, curve, torchrun
from tests.test_training_distributed import TINY as SHARED
from tests.test_training_resume import TINY, curves, killed_after
from training.engine.distributed import Ranks
from training.models.pretrained import read_pretrained
from training.pretrain import balance
from training.pretrain.balance import GradientBalance, balanced
from training.pretrain.state import TrainState
from training.pretrain.train import pretrain

ALONE = Ranks(0, 1, torch.device("cpu"))
BALANCED = "pretrain.balance=gradient"


def test_factors_make_the_norms_equal_and_keep_their_weighted_sum() -> None:
    norms, weights = {"a": 0.5, "b": 20.0, "c": 1.0}, {"a": 1.0, "b": 0.1, "c": 2.0}
    factors = balanced(norms, weights)
    pulls = [factors[name] * norm for name, norm in norms.items()]
    assert pulls == pytest.approx([pulls[0]] * 3)
    before, after = (sum(weights[n] * norms[n] * f.get(n, 1) for n in norms) for f in ({}, factors))
    assert after == pytest.approx(before)


def test_a_loss_without_a_gradient_does_not_get_an_endless_factor() -> None:
    assert balanced({"a": 0.0, "b": 1.0}, {"a": 1.0, "b": 1.0}) == {"a": balance.LARGEST, "b": 0.5}


def test_norms_are_averaged_over_micro_batches_and_time_and_those_that_are_not_finite_are_left_out() -> None:
    shared = nn.Parameter(torch.tensor([3.0, 4.0]))
    measured = GradientBalance([shared], ALONE)
    for factor in (1.0, 3.0):
        measured.measure({"square": factor * (shared**2).sum() / 2, "sum": shared[0]}, 2.0**16)
    measured.update(lambda _: 1.0)
    assert measured.state_dict()["norms"] == pytest.approx({"square": 10.0, "sum": 1.0})
    measured.measure({"square": (shared**2).sum(), "sum": shared[0] * torch.inf}, 1.0)
    measured.update(lambda _: 1.0)
    assert measured.state_dict()["norms"] == pytest.approx({"square": 10.0, "sum": 1.0})
    measured.measure({"square": (shared**2).sum() * 2, "sum": shared[0]}, 1.0)
    measured.update(lambda _: 1.0)
    assert measured.state_dict()["norms"] == pytest.approx({"square": 13.0, "sum": 1.0})
    assert measured.factors == pytest.approx({"square": 7 / 13, "sum": 7.0})
    assert shared.grad is None


@pytest.mark.parametrize("name", NAMES)
def test_every_loss_but_the_adversarial_one_pulls_at_the_backbone_of_every_network(name: str) -> None:
    config = small(name, BALANCED, "pretrain.precision=float32")
    state = TrainState(config.network, config.pretrain, ALONE, ["a", "b", "c", "d"])
    state.backward(state.forward(batch(), 0, 0), 0)
    state.update(0)
    assert state.balance is not None
    assert set(state.balance.factors) == {
        "segmentation/loss",
        "classification/loss",
        "rotation/position_loss",
        "rotation/angle_loss",
    }
    assert all(0.01 < factor < 100 for factor in state.balance.factors.values())


def test_a_killed_run_goes_on_with_the_same_factors_to_the_same_weights(
    shards: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(balance, "INTERVAL", 2)
    config = load(settings=[*TINY, BALANCED])
    pretrain(config, shards, tmp_path / "whole")
    killed_after(4, shards, tmp_path / "killed", monkeypatch, BALANCED)
    pretrain(config, shards, tmp_path / "killed")
    whole, killed = (curves(tmp_path / name) for name in ("whole", "killed"))
    assert whole == killed
    assert any(name.endswith("loss_factor.tsv") for name in whole)
    files = [tmp_path / name / "pretrained.safetensors" for name in ("whole", "killed")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_two_processes_balance_as_one_that_accumulates_two_micro_batches(
    shards: Layout, tmp_path: Path
) -> None:
    script = tmp_path / "equal_weights.py"
    script.write_text(EQUAL_WEIGHTS)
    done = torchrun(script, shards, tmp_path, BALANCED)
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / f"equal-{rank}").read_text() for rank in (0, 1)] == ["xxxx", "xxxx"]
    config = load(settings=[*SHARED, BALANCED, "pretrain.accumulate=2"])
    pretrain(config, shards, tmp_path / "one")
    for name in ("loss", "rotation/angle_loss_factor", "classification/loss_factor"):
        two = curve(tmp_path / "pretrain", name)
        assert two == pytest.approx(curve(tmp_path / "one", name), rel=1e-3)
    weights = read_pretrained(tmp_path / "pretrain" / "pretrained.safetensors")["network"]
    for name, value in read_pretrained(tmp_path / "one" / "pretrained.safetensors")["network"].items():
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-3, msg=name)
