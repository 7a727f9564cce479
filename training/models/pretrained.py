"""The result of stage 1 as one safetensors file that says by itself what it is."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from common.classes import CLASSES
from common.config import Config
from common.errors import UserError
from common.files import replacing
from common.version import code_version
from training.data.transforms import MEAN, STD

FILE = "pretrained.safetensors"


def export_network(path: Path, network: torch.nn.Module, config: Config) -> None:
    """Write a network's weights and buffers, float32 or int64, under the names of its state.

    The file's metadata has one entry, ``sspl``, a JSON object: ``config``, ``classes`` (of the
    masks, in order), ``preprocessing`` and ``code``. One entry, because the library writes
    several in no fixed order.
    """
    facts = {
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
    with replacing(path) as temporary:
        save_file(tensors, temporary, {"sspl": json.dumps(facts)})


def read_exported(path: Path) -> dict[str, Any]:
    """The weights (``network``, tensors by name) and what `export_network` says of them.

    Raises:
        UserError: the file is missing or is no such file.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; `python -m training.run --stage pretrain` makes it")
    try:
        with safe_open(path, "pt") as found:
            facts: dict[str, Any] = json.loads((found.metadata() or {})["sspl"])
            network: dict[str, Tensor] = {name: found.get_tensor(name) for name in found.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path}: no pre-trained network of this project; train again ({error})") from error
    return {"network": network, **facts}
