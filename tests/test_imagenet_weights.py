"""ImageNet's weights from a file: names of torchvision, and what does not fit is refused."""

import json
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from common.config import Config, load
from common.errors import UserError
from training.methods.imagenet import load_imagenet
from training.methods.runs import finetune
from training.models import build

RESNET = torchvision.models.resnet18(weights=None).state_dict()
SMALL = [
    *("network.input_size=32", "finetune.runs=[{labels: 0.5, steps: 4}]", "finetune.methods=[imagenet]"),
    *("finetune.batch_size=4", "trainer.loader_workers=0"),
]


@pytest.mark.parametrize(
    ("name", "ending"), [("resnet18", "pth"), ("resnet34", "safetensors"), ("resnet50", "pth")]
)
def test_a_published_resnet_gives_its_backbone(tmp_path, name, ending):
    torch.manual_seed(1)
    theirs = torchvision.models.get_model(name, weights=None).eval()
    path = tmp_path / f"{name}.{ending}"
    save_file(theirs.state_dict(), path) if ending == "safetensors" else torch.save(theirs.state_dict(), path)
    ours = build(imagenet(name, path).network).eval()
    load_imagenet(ours, path)
    images = torch.randn(2, 3, 64, 64)
    theirs.fc = torch.nn.Identity()
    with torch.no_grad():
        assert torch.allclose(ours(images).backbone.mean((2, 3)), theirs(images), atol=1e-4)


PREFIXES = ("_orig_mod.", "backbone.", "model.backbone.", "encoder.")
MOMENTUM = (("module.encoder_q.", "module.encoder_k."), ("module.base_encoder.", "module.momentum_encoder."))


@pytest.mark.parametrize("prefixes", [*zip(PREFIXES), *MOMENTUM])
def test_a_prefix_of_all_names_is_ignored(tmp_path, prefixes):
    path, ours = tmp_path / "resnet18.pth", build(imagenet("resnet18", tmp_path / "resnet18.pth").network)
    networks = [torchvision.models.resnet18(weights=None).state_dict() for _ in prefixes]
    states = zip(prefixes, networks, strict=True)
    torch.save({f"{prefix}{key}": state[key] for prefix, state in states for key in state}, path)
    load_imagenet(ours, path)
    (first,) = {name for name in ours.state_dict() if name.endswith("0.0.weight")}
    assert torch.equal(ours.state_dict()[first], networks[0]["conv1.weight"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "pointer of Git LFS"),
        (b"\n<!DOCTYPE html><html>", "a web page instead"),
        (b"", "it is empty"),
        (torch.nn.Linear(1, 1), "a pickled object instead of its state_dict"),
        ([torch.zeros(1)], "not a state dict of names and tensors"),
        (
            {f"{side}.{name}": value for side in "ab" for name, value in RESNET.items()},
            "holds several networks",
        ),
    ],
    ids=["LFS", "HTML", "empty", "module", "list", "two networks"],
)
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_what_is_no_file_of_weights_is_named(tmp_path, content, message, ending):
    path = tmp_path / f"resnet18.{ending}"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif ending == "pth":
        torch.save(content, path)
    else:
        pytest.skip("safetensors hold nothing but tensors by name")
    with pytest.raises(UserError, match=message):
        load_imagenet(build(imagenet("resnet18", path).network), path)


def imagenet(name: str, path: Path) -> Config:
    network = [f"network.name={name}", "network.width=64", "network.stem=large"]
    return load(settings=[*SMALL, *network, f"finetune.imagenet={path}"])


def test_imagenet_weights_that_do_not_fit_are_refused(shards, tmp_path):
    path = tmp_path / "resnet18.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    spl = load(settings=[*SMALL, f"finetune.imagenet={path}"])
    with pytest.raises(UserError, match="no published ImageNet weights of spl"):
        finetune(spl, shards, tmp_path / "none", tmp_path / "runs")
    with pytest.raises(UserError, match="of another model .* no layer1.2.conv1.weight"):
        load_imagenet(build(imagenet("resnet34", path).network), path)
    narrow = load(settings=[*SMALL, "network.width=8", "network.name=resnet18"])
    with pytest.raises(UserError, match="network.width=64"):
        load_imagenet(build(narrow.network), path)
    path.write_bytes(b"junk")
    with pytest.raises(UserError, match="finetune.imagenet"):
        load_imagenet(build(imagenet("resnet18", path).network), path)
    with pytest.raises(UserError, match="set finetune.imagenet"):
        finetune(load(settings=SMALL), shards, tmp_path / "none", tmp_path / "runs")


def test_a_network_learns_from_imagenet_weights(shards, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(RESNET, path)
    finetune(imagenet("resnet18", path), shards, tmp_path / "none", tmp_path / "runs")
    (run,) = json.loads((tmp_path / "runs" / "runs.json").read_text())
    assert (run["name"], run["steps"]) == ("imagenet-50%", 4)
