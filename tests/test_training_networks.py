"""The network, its averaging, the classifier on top of it, and what stage 1 measures on unseen faces."""

import json

import numpy as np
import pytest
import torch

from common.config import Schedule, load
from common.errors import UserError
from synthetic.attributes import CELEBA_ATTRIBUTES
from training.data.loader import BrokenSamples
from training.data.samples import read_samples
from training.engine.optim import LossCheck, rate_factor
from training.methods.network import augment
from training.models import build
from training.models.attribute_network import AttributeNetwork, attribute_loss, branch_groups, read_groups
from training.models.blocks import to_input
from training.models.classifier import NetworkClassifier
from training.models.pretrained import load_pretrained, save_pretrained
from training.pretrain.model import PretrainModel, batch_statistics, read_validation_samples, validate
from training.pretrain.tasks.classification import average_precision
from training.pretrain.tasks.segmentation import mean_iou, pixel_accuracy
from training.pretrain.train import pretrain


def test_the_published_network_with_nine_patches_and_nineteen_classes_has_46_2_million_parameters():
    settings = ["network.width=64", "network.stem=large", "network.input_size=224", "network.branch_stage=0"]
    config = load(settings=[*settings, "pretrain.tasks.segmentation.upscale=1"])
    model = PretrainModel(config.network, config.pretrain)
    assert sum(parameter.numel() for parameter in model.parameters()) == 46_207_449


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
    assert attribute_loss(logits, torch.full((2, 2), -1), groups).item() == 0.0


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


def test_the_published_schedules_and_the_cosine():
    def factors(schedule: Schedule, steps: int) -> list[float]:
        return [rate_factor(schedule, step, steps) for step in range(steps)]

    first = factors("pretrain_paper", 80)
    assert first[:7] == pytest.approx([(e + 1) / 7 for e in range(7)])
    assert first[7:11] == [0.1] * 4
    assert set(first[11:]) == {0.01}
    second = factors("finetune_paper", 70)
    assert second[6] == pytest.approx(1.5)
    assert [second[step] for step in (15, 16, 35, 36, 50, 51)] == [1.5, 0.5, 0.5, 0.15, 0.15, 0.01]
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


def test_augmentation_keeps_the_range_and_depends_on_its_generator_alone():
    faces = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    once, again = (augment(faces, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(once, again) and not torch.equal(once, faces.float())
    assert once.min() >= 0 and once.max() <= 255 and once.dtype == torch.float32


def test_with_mirror_images_a_face_and_its_mirror_image_have_the_same_logits():
    settings, names = load(settings=["network.width=8", "network.input_size=32"]), ("Male", "Young")
    model = AttributeNetwork(settings.network, names, {})
    classifier = NetworkClassifier(attributes=names, model=model)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    logits = {}
    for mirrored in (False, True):
        classifier.configure(torch.device("cpu"), "float32", mirrored)
        faces = (to_input(each, 32) for each in (images, images.flip(-1)))
        logits[mirrored] = [classifier.logits_of(each).numpy() for each in faces]
    assert not np.allclose(*logits[False], atol=1e-4)
    assert np.allclose(*logits[True], atol=1e-5)
    assert np.allclose(logits[True][0], sum(logits[False]) / 2, atol=1e-5)


TINY = [
    *("network.width=8", "network.input_size=32", "pretrain.steps=2", "pretrain.batch_size=4"),
    *("pretrain.log_every=1", "trainer.loader_workers=0", "trainer.precision=float32"),
]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config():
    return load(settings=TINY)


def test_validation_sees_every_face_once_in_no_tiny_batch_and_gives_the_same_scores_every_time(
    config, shards, monkeypatch
):
    samples, model = read_samples(shards, ("train",)), PretrainModel(config.network, config.pretrain)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batches: list[list[int]] = []
    prepare = PretrainModel.prepare
    monkeypatch.setattr(
        PretrainModel,
        "prepare",
        lambda model, batch, *key: batches.append(batch.indices.tolist()) or prepare(model, batch, *key),
    )
    first, second = (validate(model, samples, config, CPU, BrokenSamples(0)) for _ in range(2))
    assert first == second
    assert first.keys() == {
        *("segmentation/pixel_accuracy", "segmentation/mean_iou", "classification/average_precision"),
        *("classification/accuracy", "rotation/position_accuracy", "rotation/angle_accuracy"),
    }
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert sorted(index for batch in batches for index in batch) == sorted([*range(len(samples))] * 2)
    assert min(map(len, batches)) >= 4


def test_scores_are_those_of_the_definition():
    confusion = torch.tensor([[[8, 1, 0], [1, 1, 0], [0, 0, 0]], [[0, 1, 0], [0, 2, 0], [0, 0, 0]]])
    assert pixel_accuracy({"confusion": confusion}) == pytest.approx(11 / 14)
    # The third class occurs nowhere.
    assert mean_iou({"confusion": confusion}) == pytest.approx((8 / 11 + 3 / 6) / 2)


def test_average_precision_is_of_the_classes_that_vary():
    targets = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    logits = torch.tensor([[2.0, 0.0, 3.0], [1.0, 0.0, 2.0], [0.0, 0.0, 1.0]])
    expected = (1 + (1 / 2 + 2 / 3) / 2) / 2
    assert average_precision({"targets": targets, "scores": logits}) == pytest.approx(expected)
    assert average_precision({"targets": targets[:1], "scores": logits[:1]}) is None


def test_batch_statistics_neither_read_nor_change_the_running_ones():
    layer = torch.nn.BatchNorm2d(3)
    layer.running_mean = torch.full((3,), 100.0)
    with batch_statistics(layer):
        found = layer(torch.randn(8, 3, 4, 4) * 5 + 7)
    assert found.mean().abs() < 1e-4
    assert torch.equal(layer.running_mean, torch.full((3,), 100.0)) and layer.num_batches_tracked == 0
    assert layer.training and layer.track_running_stats


def test_a_set_without_val_faces_is_trained_and_that_is_said_once(
    config, shards, tmp_path, monkeypatch, capsys
):
    real = read_samples
    monkeypatch.setattr(
        "training.pretrain.model.read_samples",
        lambda layout, splits: real(layout, splits).take(np.arange(0)),
    )
    assert len(read_validation_samples(shards)) == 0
    pretrain(config, shards, tmp_path)
    assert capsys.readouterr().out.count("nothing is validated") == 1
    assert "val" not in json.loads((tmp_path / "metrics.json").read_text())
