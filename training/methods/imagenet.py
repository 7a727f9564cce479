"""``imagenet``: ImageNet weights from a local file, for the ResNets that torchvision and timm publish too."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from common.config import Finetune
from common.errors import UserError
from training.engine.checkpoint import UNREADABLE, fault
from training.methods.method import Context, Run
from training.methods.pretrained import Pretrained
from training.models import FaceNetwork
from training.models.attribute_network import AttributeNetwork
from training.models.backbone import BackboneNetwork


class ImageNet(Pretrained):
    """Transfer from labelled photos of things."""

    name = "imagenet"
    title = "from ImageNet"
    sentence = "A network that was trained on ImageNet's labels is trained further on the labelled faces."
    pretrained = False

    def weights(self, settings: Finetune, pretrained: Path) -> Path | None:
        """The file that ``finetune.imagenet`` names.

        Raises:
            UserError: it names none.
        """
        if settings.imagenet is None:
            raise UserError("the method imagenet needs a file of weights; set finetune.imagenet to its path")
        return Path(settings.imagenet)

    def start(self, context: Context, run: Run, model: AttributeNetwork) -> None:
        """See `load_imagenet`."""
        assert run.weights is not None
        load_imagenet(model.network, run.weights)


def load_imagenet(network: FaceNetwork, path: Path) -> None:
    """Load the backbone's weights from a state dict of torchvision or timm; its classifier is ignored.

    Args:
        network: of ``resnet*``, changed in place.
        path: a .pth or .safetensors file.

    Raises:
        UserError: the network has no such backbone, or the file cannot be read or is of another model.
    """
    if not isinstance(network, BackboneNetwork):
        raise UserError(
            "there are no published ImageNet weights of spl and sspl; set network.name to resnet18, "
            "resnet34 or resnet50, or take imagenet out of finetune.methods"
        )
    given = _read(path)
    state = {name: value for name, value in network.backbone.state_dict().items() if value.dim()}
    names = _names(given, [_published(name) for name in state], path)
    for name, value in state.items():
        theirs = given[names[_published(name)]]
        if theirs.shape != value.shape:
            raise UserError(
                f"{path}: {_published(name)} is {_size(theirs)}, but {_size(value)} in the network; "
                "published ResNets need network.width=64 and network.stem=large"
            )
        value.copy_(theirs)


def _names(given: Iterable[str], wanted: Sequence[str], path: Path) -> dict[str, str]:
    """By wanted name, the given one, which may begin with the same prefix throughout, such as ``module.``.

    Raises:
        UserError: a name is missing, or there are several such networks.
    """
    names, first = set(given), wanted[0]
    prefixes = {name.removesuffix(first) for name in names if name.endswith(first)} or {""}
    counts = {prefix: sum(prefix + name in names for name in wanted) for prefix in prefixes}
    best = sorted(prefix for prefix in prefixes if counts[prefix] == max(counts.values()))
    if len(best) > 1:  # MoCo's slowly moving copy beside the network itself
        best = [prefix for prefix in best if not re.search(r"encoder_k\.|momentum_", prefix)] or best
    if missing := [name for name in wanted if best[0] + name not in names]:
        raise UserError(f"{path} is of another model than network.name: it has no {missing[0]}")
    if len(best) > 1:
        several = " and ".join(prefix + first for prefix in best[:2])
        raise UserError(f"{path} holds several networks, such as those of {several}; leave one of them in it")
    return {name: best[0] + name for name in wanted}


def _read(path: Path) -> dict[str, Tensor]:
    try:
        content: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except (*UNREADABLE, SafetensorError) as error:
        why = fault(path) if path.is_file() else "there is no such file"
        raise UserError(f"finetune.imagenet: {path} cannot be read as a state dict: {why}") from error
    for key in ("state_dict", "model"):  # as training scripts save them
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"finetune.imagenet: {path} is not a state dict of names and tensors")
    return content


def _published(name: str) -> str:
    """The name that torchvision and timm use for a tensor of this project's ResNets."""
    name = re.sub(r"^0\.0\.", "conv1.", name)
    name = re.sub(r"^0\.1\.", "bn1.", name)
    return re.sub(r"^([1-4])\.", r"layer\1.", name)


def _size(value: Tensor) -> str:
    return " x ".join(str(side) for side in value.shape) or "one number"
