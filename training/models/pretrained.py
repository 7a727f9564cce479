"""``pretrained.safetensors``: the network that stage 1 trained, in one file that describes itself."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from common.classes import CLASSES
from common.config import Config, Network
from common.errors import UserError
from common.files import write_bytes
from common.freshness import code_version
from training.engine.checkpoint import fault
from training.models.blocks import MEAN, STD

FILE = "pretrained.safetensors"


def save_pretrained(path: Path, network: nn.Module, config: Config) -> None:
    """Write a network's weights and buffers, float32 or int64, under their names in the state dict.

    The file's metadata has one entry, ``sspl``, a JSON object of ``config``, ``classes`` (of the masks,
    in order), ``preprocessing`` and ``code``; one, because safetensors writes several in no fixed order.
    """
    metadata = {
        "config": config.model_dump(mode="json"),
        "classes": CLASSES,
        "preprocessing": {
            "channels": "RGB",
            "size": config.network.input_size,
            "scale": 1 / 255,
            "mean": MEAN,
            "std": STD,
        },
        "code": code_version(),
    }
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    write_bytes(path, save(tensors, {"sspl": json.dumps(metadata)}))


def read_pretrained(path: Path) -> dict[str, Any]:
    """The weights (``network``, tensors by name) and the metadata that `save_pretrained` wrote.

    Raises:
        UserError: the file is missing or was not written by stage 1.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; `python -m training.run --stage pretrain` writes it")
    try:
        with safe_open(path, "pt") as file:
            metadata: dict[str, Any] = json.loads((file.metadata() or {})["sspl"])
            network: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError) as error:
        raise UserError(
            f"{path}: not a pre-trained network of this project ({fault(path)}); pre-train again"
        ) from error
    return {"network": network, **metadata}


def load_pretrained(network: nn.Module, config: Network, path: Path) -> None:
    """Load the weights that stage 1 trained into `network`, whose settings are `config`.

    Raises:
        UserError: the file is missing, or of a network with other settings.
    """
    content = read_pretrained(path)
    theirs = content["config"]["network"]
    differing = [
        f"{key}={theirs.get(key)}" for key, value in config.model_dump().items() if theirs.get(key) != value
    ]
    if differing:
        raise UserError(
            f"the pre-trained network has {', '.join(differing)}; pre-train again, or set network.* to that"
        )
    network.load_state_dict(content["network"])
