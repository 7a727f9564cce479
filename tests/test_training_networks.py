"""The network, its averaging, and the classifier on top of it."""

import numpy as np
import pytest
import torch
from torch import nn

from common.config import Schedule, load
from common.errors import UserError
from synthetic.attributes import CELEBA_ATTRIBUTES
from training.engine.optim import LossCheck, rate_factor
from training.methods.network import augment
from training.models import BRANCHES, SplNetwork, build
from training.models.attribute_network import AttributeNetwork, attribute_loss, branch_groups, read_groups
from training.models.blocks import to_input
from training.models.classifier import NetworkClassifier
from training.models.pretrained import load_pretrained, save_pretrained
from training.pretrain.model import PretrainModel


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_published_network_with_nine_patches_and_nineteen_classes_has_46_2_million_parameters():
    settings = ["network.width=64", "network.stem=large", "network.input_size=224", "network.branch_stage=0"]
    config = load(settings=[*settings, "pretrain.tasks.segmentation.upscale=1"])
    assert parameters(PretrainModel(config.network, config.pretrain)) == 46_207_449


@pytest.mark.parametrize(("stem", "stride"), [("large", 32), ("small", 16)])
def test_trunk_and_branches_end_at_the_same_resolution(stem, stride):
    network = SplNetwork(8, stem)
    features = network(torch.randn(2, 3, 64, 64))
    expected = (2, 64, 64 // stride, 64 // stride)
    assert features.backbone.shape == expected
    assert {name: branch.shape for name, branch in features.branches.items()} == dict.fromkeys(
        BRANCHES, expected
    )
    assert network(torch.randn(2, 3, 64, 64), branches=False).branches == {}


def test_celebas_attributes_are_shared_out_among_the_branches_once_each():
    assert {name for names in read_groups().values() for name in names} == set(CELEBA_ATTRIBUTES)
    groups = branch_groups(CELEBA_ATTRIBUTES, read_groups())
    assert sorted(position for group in groups.values() for position in group) == list(range(40))
    assert groups["middle"] == [7, 19, 27, 29, 30, 34]
    assert branch_groups(("age", "Eyeglasses"), read_groups()) == {"whole": [0], "upper": [1]}


def test_logits_come_in_the_order_of_the_attributes():
    names = ("Smiling", "Eyeglasses", "Big_Nose", "Goatee", "Male")
    model = AttributeNetwork(load(settings=["network.width=8"]).network, names).eval()
    with torch.no_grad():
        for branch, head in model.heads.items():
            head.weight.zero_()
            head.bias.copy_(torch.tensor([float(p) for p in model.groups[branch]]))
        assert model(torch.randn(1, 3, 32, 32)).tolist() == [[0.0, 1.0, 2.0, 3.0, 4.0]]


def test_unknown_labels_take_no_part_in_the_loss():
    groups = {"whole": [0, 1]}
    logits = torch.tensor([[2.0, -1.0], [0.5, 3.0]], requires_grad=True)
    loss = attribute_loss(logits, torch.tensor([[1, -1], [0, -1]]), groups)
    expected = (np.log1p(np.exp(-2.0)) + np.log1p(np.exp(0.5))) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert logits.grad[:, 1].tolist() == [0.0, 0.0]


def test_a_batch_without_any_known_label_has_no_loss():
    assert attribute_loss(torch.randn(3, 2), torch.full((3, 2), -1), {"whole": [0, 1]}).item() == 0.0


def test_the_classifier_takes_the_network_of_stage_1_and_refuses_another(tmp_path):
    config = load(settings=["network.width=8"])
    stage1 = PretrainModel(config.network, config.pretrain)
    save_pretrained(tmp_path / "pretrained.safetensors", stage1.network, config)
    model = AttributeNetwork(config.network, CELEBA_ATTRIBUTES)
    load_pretrained(model.network, config.network, tmp_path / "pretrained.safetensors")
    for name, value in model.network.state_dict().items():
        assert torch.equal(value, stage1.network.state_dict()[name])
    wider = load(settings=["network.width=16"]).network
    with pytest.raises(UserError, match="width=8"):
        load_pretrained(build(wider), wider, tmp_path / "pretrained.safetensors")


def test_augmentation_keeps_the_range_and_depends_on_its_generator_alone():
    faces = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    once, again = (augment(faces, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(once, again)
    assert once.min() >= 0
    assert once.max() <= 255
    assert once.dtype == torch.float32


def test_the_networks_input_is_normalised_by_imagenets_statistics():
    gray = torch.full((1, 3, 8, 8), 255, dtype=torch.uint8)
    assert to_input(gray, 4)[0, :, 0, 0].tolist() == pytest.approx([2.2489, 2.4286, 2.64], abs=1e-3)


def test_the_published_schedules_and_the_cosine():
    def factors(schedule: Schedule, steps: int) -> list[float]:
        return [rate_factor(schedule, step, steps) for step in range(steps)]

    first = factors("pretrain_paper", 80)
    assert first[:7] == pytest.approx([(e + 1) / 7 for e in range(7)])
    assert first[7:11] == [0.1] * 4
    assert set(first[11:]) == {0.01}
    second = factors("finetune_paper", 70)
    assert second[6] == pytest.approx(1.5)
    assert (second[15], second[16], second[35], second[36], second[50], second[51]) == (
        1.5,
        0.5,
        0.5,
        0.15,
        0.15,
        0.01,
    )
    cosine = factors("cosine", 100)
    assert cosine[:10] == pytest.approx([(s + 1) / 10 for s in range(10)])
    assert cosine[10] == 1.0
    assert cosine == cosine[:10] + sorted(cosine[10:], reverse=True)
    assert cosine[-1] < 0.001


def test_a_loss_that_is_no_number_stops_with_the_samples_named():
    losses = LossCheck(["k0", "k1", "k2"])
    losses.add(torch.tensor(1.0), 2, torch.tensor([0]))
    losses.check()
    for step, loss in ((3, float("nan")), (4, 1.0)):
        losses.add(torch.tensor(loss), step, torch.tensor([1, 2]))
    with pytest.raises(UserError, match=r"the loss is nan at step 3.*: k1, k2$"):
        losses.check()


@pytest.mark.parametrize("name", ["spl", "sspl", "resnet18", "dlib_face"])
def test_every_parameter_of_a_network_has_one_group(name):
    config = load(settings=["network.width=8", "network.input_size=200", f"network.name={name}"])
    model = AttributeNetwork(config.network, CELEBA_ATTRIBUTES)
    groups = model.parameter_groups()
    assert list(groups) == ["backbone", "branches", "heads"]
    declared = sorted(id(parameter) for group in groups.values() for parameter in group)
    assert declared == sorted(map(id, model.parameters()))


def test_with_mirror_images_a_face_and_its_mirror_image_have_the_same_logits():
    settings = load(settings=["network.width=8", "network.input_size=32"])
    network = AttributeNetwork(settings.network, ("Male", "Young"), {})
    model = NetworkClassifier(attributes=("Male", "Young"), model=network)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)

    def logits(faces: torch.Tensor, mirrored: bool) -> np.ndarray:
        model.configure(torch.device("cpu"), "float32", mirrored)
        return model.logits_of(to_input(faces, 32)).numpy()

    flipped = images.flip(-1)
    assert not np.allclose(logits(images, False), logits(flipped, False), atol=1e-4)
    assert np.allclose(logits(images, True), logits(flipped, True), atol=1e-5)
    mean = (logits(images, False) + logits(flipped, False)) / 2
    assert np.allclose(logits(images, True), mean, atol=1e-5)
