"""The real parser on painted faces with exact masks, other parsers, and left and right."""

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
import yaml
from facexlib.parsing import init_parsing_model
from facexlib.parsing.parsenet import ParseNet
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import Tensor, nn

from common import weights
from common.classes import CLASSES, FLIP_CLASSES, FROM_CELEBAMASK_HQ
from common.config import load
from common.errors import UserError
from common.members import decode_face
from common.parsing import network as network_module
from common.parsing import quantize
from common.parsing.class_map import ClassMap, read_format_beside
from common.parsing.facexlib_networks import BISENET
from common.parsing.find_parser import find_parser
from common.parsing.masks import assign_sides, most_probable
from common.parsing.network import normalised
from common.parsing.parser import FaceParser, ParserFile, load_parser

BISENET_MAP = BISENET.model_dump(mode="json") | {"size": 448, "coarse": "centres"}


def parser_file(*settings: str) -> ParserFile:
    config = load(settings=settings)
    return find_parser(config.parse, config.weights)


def int8_of(file: ParserFile) -> Path:
    return quantize.int8_file(file.path, file.sha256, file.size)


def exact_masks(portraits: Path) -> list[np.ndarray]:
    files = sorted((portraits / "masks").glob("*.png"))
    return [cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)[20:198] for file in files]


@pytest.fixture(scope="module")
def faces(portraits):
    files = sorted((portraits / "img_align_celeba").glob("*.jpg"))[:6]
    return np.stack([decode_face(file.read_bytes())[20:198] for file in files])


def test_exact_masks_keep_their_sides_swapped_ones_are_put_right_and_mirrored_ones_mirrored(portraits):
    masks = np.stack(exact_masks(portraits))
    assigned = assign_sides(masks)
    assert np.mean(assigned == masks) > 0.999
    assert np.array_equal(assign_sides(FLIP_CLASSES[masks]), assigned)
    mirrored = assign_sides(FLIP_CLASSES[masks[..., ::-1]])
    assert np.mean(mirrored == FLIP_CLASSES[assigned[..., ::-1]]) > 0.999


@given(st.integers(0, 10**6))
@settings(max_examples=30)
def test_nothing_but_brows_eyes_and_ears_changes(seed):
    masks = np.random.default_rng(seed).integers(0, 19, (2, 24, 24)).astype(np.uint8)
    masks[0, : seed % 25] = 0  # perhaps without a face
    before, after = masks.copy(), assign_sides(masks)
    assert np.array_equal(masks, before)
    sided = [CLASSES.index(f"{side}_{part}") for side in "lr" for part in ("brow", "eye", "ear")]
    assert np.array_equal(after[~np.isin(before, sided)], before[~np.isin(before, sided)])
    assert np.array_equal(np.minimum(after, FLIP_CLASSES[after]), np.minimum(before, FLIP_CLASSES[before]))


def test_the_real_parser_sees_the_painted_faces(portraits, faces):
    masks, confidence, _ = load_parser(parser_file())(faces)
    truth = np.stack(exact_masks(portraits)[: len(faces)])
    for name in ("skin", "hair", "nose", "l_eye", "r_eye"):
        found, real = masks == CLASSES.index(name), truth == CLASSES.index(name)
        if real.sum() > 200:
            assert 2 * (found & real).sum() / (found.sum() + real.sum()) > 0.5, name
    assert masks.dtype == np.uint8
    present = np.stack([np.bincount(mask.ravel(), minlength=19) > 0 for mask in masks])
    assert np.array_equal(confidence > 0, present)
    assert confidence.max() <= 1


@pytest.mark.parametrize("precision", ["int8", "bfloat16"])
def test_fewer_bits_and_batches_do_not_change_the_masks(faces, precision):
    parse_faces = load_parser(parser_file(f"parse.precision={precision}"))
    together, *_ = parse_faces(faces)
    alone = np.concatenate([parse_faces(face[None])[0] for face in faces])
    assert np.mean(together == alone) > 0.999
    exact, *_ = load_parser(parser_file("parse.precision=float32"))(faces)
    assert np.mean(together == exact) > 0.98


@pytest.mark.parametrize("channels", ["RGB", "BGR"])
def test_opencv_makes_the_input_that_pytorch_makes_on_gpus(faces, channels, monkeypatch):
    class_map = ClassMap.model_validate(BISENET_MAP | {"channels": channels}, strict=False)
    ours = normalised(faces, class_map, 448, torch.device("cpu"))

    def resized(faces: np.ndarray, *rest: Any) -> np.ndarray:
        return network_module._resized_by_pytorch(torch.from_numpy(faces), *rest).numpy()

    monkeypatch.setattr(network_module, "_resized_by_opencv", resized)
    assert torch.allclose(ours, normalised(faces, class_map, 448, torch.device("cpu")), atol=1e-4)


@pytest.mark.parametrize("values", ["logits", "probabilities"])
def test_bands_of_rows_decide_as_argmax_does_on_the_whole_face(values):
    class_map = ClassMap.model_validate(BISENET_MAP | {"values": values}, strict=False)
    scores = torch.randn(5, 19, 7, 9, generator=torch.Generator().manual_seed(0))
    scores = scores if values == "logits" else scores.softmax(dim=1)
    whole = F.interpolate(F.interpolate(scores, (96, 96), mode="bilinear"), (61, 61), mode="bilinear")
    highest, classes = (whole.softmax(dim=1) if values == "logits" else whole).max(dim=1)
    masks, probability = most_probable(scores, class_map, 96, 61)
    assert torch.equal(masks.long(), classes)
    assert torch.allclose(probability, highest, atol=1e-5)


def file_parser(kind: str, path: Path, class_map: dict[str, object]) -> FaceParser:
    path.with_suffix(".json").write_text(json.dumps(class_map))
    return load_parser(parser_file(f"parse.parser={kind}", f"weights.parser={path}"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The real BiSeNet as a TorchScript file, with all three of its outputs."""
    path, weights = tmp_path_factory.mktemp("exported") / "bisenet.pt", parser_file().path
    network = init_parsing_model("bisenet", device="cpu", model_rootpath=str(weights.parent))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(network, torch.zeros(2, 3, 448, 448)), path)
    return path


def test_a_file_of_the_real_network_gives_the_native_masks_if_its_class_map_has_all_classes(exported, faces):
    exact = load_parser(parser_file("parse.precision=float32"))(faces)[0]
    masks, confidence, _ = file_parser("torchscript", exported, BISENET_MAP)(faces)
    assert np.mean(masks == exact) >= 0.999
    present = np.stack([np.bincount(mask.ravel(), minlength=19) > 0 for mask in masks])
    assert np.array_equal(confidence > 0, present)
    with pytest.raises(UserError, match="lists 2 classes"):
        short = BISENET_MAP | {"classes": ["background", "skin"]}
        file_parser("torchscript", exported, short)(faces[:1])


class Painter(nn.Module):
    """A stand-in network that knows the classes of a picture by its red channel, 0 to 1 in thirds."""

    def __init__(self, channels_last: bool = False, red: int = 0) -> None:
        super().__init__()
        self.channels_last, self.red = channels_last, red

    def forward(self, pixels: Tensor) -> Tensor:
        red = pixels[..., self.red] if self.channels_last else pixels[:, self.red]
        low, high = red < 1 / 3, red > 2 / 3
        scores = torch.stack([low.float(), (~low & ~high).float(), high.float()], dim=1)
        return scores.permute(0, 2, 3, 1) if self.channels_last else scores


PAINTER_MAP = BISENET_MAP | {"size": None, "mean": [0.0] * 3, "std": [1.0] * 3, "values": "probabilities"}
PAINTER_MAP |= {"classes": ["hair", "nose", "hair"]}


@pytest.mark.parametrize(("channels", "layout"), [("RGB", "NCHW"), ("BGR", "NCHW"), ("RGB", "NHWC")])
@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
def test_the_class_map_says_how_pixels_go_in_and_which_classes_come_out(kind, channels, layout, tmp_path):
    network = Painter(channels_last=layout == "NHWC", red=2 if channels == "BGR" else 0).eval()
    shape = (1, 448, 448, 3) if layout == "NHWC" else (1, 3, 448, 448)
    path = tmp_path / "painter.bin"
    if kind == "onnx":
        torch.onnx.export(network, (torch.zeros(shape),), path, dynamo=True, external_data=False)
    else:
        torch.jit.save(torch.jit.trace(network, torch.zeros(shape)), path)
    faces = np.zeros((2, 448, 448, 3), np.uint8)
    faces[:, :, 150:300, 0] = 128
    faces[:, :, 300:, 0] = 250
    faces[1] = faces[1][:, ::-1]
    expected = np.full((448, 448), CLASSES.index("hair"))
    expected[:, 150:300] = CLASSES.index("nose")
    parser = file_parser(kind, path, PAINTER_MAP | {"channels": channels, "layout": layout})
    masks, confidence, _ = parser(faces)
    assert np.array_equal(masks, [expected, expected[:, ::-1]])
    assert confidence[0, CLASSES.index("hair")] == 1


def test_left_and_right_of_a_file_may_be_kept(tmp_path):
    path = tmp_path / "painter.pt"
    torch.jit.save(torch.jit.trace(Painter(), torch.zeros(1, 3, 64, 64)), path)
    faces = np.zeros((1, 448, 448, 3), np.uint8)
    faces[:, :, 300:, 0] = 128
    class_map = PAINTER_MAP | {"classes": ["background", "r_eye", "l_eye"]}
    by_position, *_ = file_parser("torchscript", path, class_map)(faces)
    as_given, *_ = file_parser("torchscript", path, class_map | {"sides": "network"})(faces)
    assert as_given[0, 0, -1] == CLASSES.index("r_eye")
    assert set(np.unique(by_position[0, :, 380:])) == {CLASSES.index("l_eye")}


def test_a_wrong_or_incomplete_class_map_is_refused_by_the_name_of_its_key(tmp_path):
    path = tmp_path / "map.yaml"
    changes = [{"classes": ["background", "beard"]}, {"channels": "GBR"}, {"std": [1.0, 0.0, 1.0]}]
    changes += [{"mean": [1.0]}, {"size": "448"}, {"gamma": 1}]
    wrong = [(key, BISENET_MAP | change) for change in changes for key in change]
    wrong += [(lost, {k: value for k, value in BISENET_MAP.items() if k != lost}) for lost in BISENET_MAP]
    for key, content in wrong:
        path.write_text(yaml.safe_dump(content))
        with pytest.raises(UserError, match=key):
            read_format_beside(path, ClassMap, "class map")


def test_a_network_without_a_file_or_a_class_map_or_with_another_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"weights\.parser"):
        parser_file("parse.parser=onnx")
    path = tmp_path / "network.onnx"
    settings = ("parse.parser=onnx", f"weights.parser={path}")
    with pytest.raises(UserError, match="does not exist"):
        parser_file(*settings)
    path.write_bytes(b"no network")
    with pytest.raises(UserError, match="class map"):
        parser_file(*settings)
    for kind in ("onnx", "torchscript"):
        with pytest.raises(UserError, match="network"):
            file_parser(kind, path, BISENET_MAP)
    with pytest.raises(UserError, match=weights.KNOWN["parsenet"].sha256):
        parser_file("parse.parser=parsenet", settings[1])


@pytest.fixture
def parsenet(tmp_path, faces, monkeypatch):
    """ParseNet's real architecture with random weights (its own cannot be had from a package registry),
    and the settings that use it; the hash of the known weights is replaced by that of these."""
    torch.manual_seed(0)
    network = ParseNet(in_size=512, out_size=512, parsing_ch=19).eval()
    with torch.no_grad():  # centre the logits, so that more than one class wins
        logits = network(torch.from_numpy(faces[:2]).permute(0, 3, 1, 2).float() / 127.5 - 1)[0]
        network.out_mask_conv.conv2d.bias -= logits.mean(dim=(0, 2, 3))
    path = tmp_path / "random.pth"
    torch.save(network.state_dict(), path)
    known = replace(weights.KNOWN["parsenet"], sha256=weights.file_sha256(path))
    monkeypatch.setitem(weights.KNOWN, "parsenet", known)
    files = (f"weights.parser={path}", f"weights.cache={tmp_path / 'cache'}")
    return network, ["parse.parser=parsenet", "parse.size=64", "parse.precision=float32", *files]


def test_parsenet_sees_normalised_faces_and_its_classes_become_ours(parsenet, faces):
    network, settings = parsenet
    small = np.ascontiguousarray(faces[:2, 40:104, 40:104])
    masks, *_ = load_parser(parser_file(*settings))(small)
    pixels = torch.from_numpy(small).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        classes = network(pixels)[0].argmax(dim=1).numpy().astype(np.uint8)
    assert len(np.unique(classes)) > 3
    assert np.mean(masks == assign_sides(FROM_CELEBAMASK_HQ[classes])) > 0.999
    with pytest.raises(UserError, match="does not go with parse.parser=parsenet"):
        parser_file(*settings, "parse.precision=int8")


def test_the_int8_file_is_made_once_and_the_same_on_a_worker_without_it(tmp_path, faces, monkeypatch):
    monkeypatch.setattr(quantize, "CALIBRATION_FACES", 4)
    known = parser_file("parse.size=256", "parse.precision=float32")
    copy = [f"weights.parser={known.path}", f"weights.cache={tmp_path / 'first'}"]
    made = parser_file("parse.size=256", "parse.precision=int8", *copy)
    first = int8_of(made)
    (tmp_path / "worker").mkdir()
    elsewhere = replace(made, path=Path(shutil.copy(made.path, tmp_path / "worker")))
    masks, *_ = load_parser(elsewhere)(faces)
    (second,) = (tmp_path / "worker").glob("*.onnx")
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()
    assert int8_of(elsewhere) == second
    assert len(list(first.parent.glob("*.onnx"))) == 1
    assert first.stat().st_size < made.path.stat().st_size / 3
    assert np.mean(masks == load_parser(known)(faces)[0]) > 0.97


def test_no_product_of_the_int8_file_saturates_on_a_cpu_without_vnni():
    file = parser_file("parse.precision=int8")
    weights = [numpy_helper.to_array(each) for each in onnx.load(str(int8_of(file))).graph.initializer]
    kernels = [each for each in weights if each.dtype == np.int8 and each.ndim == 4]
    assert len(kernels) > 20
    assert max(np.abs(each.astype(int)).max() for each in kernels) <= 64  # 2 x 255 x 64 fits into 16 bits
