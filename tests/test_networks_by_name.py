"""Every network by its name: what it is made of, what it computes, and what it leaves alone."""

import pytest
import torch
from torch import Tensor, nn

from benchmarks.plain import make_plain
from common.config import PARAMS, Config, load
from common.errors import UserError
from training.data.loader import Batch
from training.models import BRANCHES, LOCAL_BRANCHES, build
from training.models.blocks import CrossAttentionUnit, PReLU
from training.pretrain.model import Example, PretrainModel
from training.pretrain.tasks import TASKS
from training.pretrain.tasks.rotation import CROP_FRACTION, GRID

PRESETS = PARAMS.parent / "presets"
SMALL = ["network.width=8", "network.stem=small", "network.input_size=32"]
NAMES = ["spl", "sspl", "resnet18", "resnet50"]


def small(name: str, *settings: str) -> Config:
    return load(settings=[*SMALL, f"network.name={name}", *settings])


def only(*tasks: str) -> list[str]:
    return [f"pretrain.tasks.{name}.weight={float(name in tasks)}" for name in TASKS]


def build_model(config: Config) -> PretrainModel:
    torch.manual_seed(0)
    return PretrainModel(config.network, config.pretrain)


def batch(seed: int = 0, count: int = 4) -> Batch:
    draws = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, 72, 72), generator=draws, dtype=torch.uint8)
    masks = torch.randint(0, 19, (count, 72, 72), generator=draws, dtype=torch.uint8)
    return Batch(images, masks, torch.arange(count))


def losses_of(model: PretrainModel, example: Example) -> tuple[Tensor, dict[str, Tensor]]:
    adversaries = nn.ModuleDict({t.name: made for t in model.active() if (made := t.adversary()) is not None})
    return model.losses(model(example.crops.patches, example.targets), example.targets, adversaries)


@pytest.mark.parametrize("name", NAMES)
def test_every_network_trains_every_parameter_and_is_the_same_for_the_same_seed(name):
    config = small(name)
    totals = []
    for _ in range(2):
        model = build_model(config)
        nn.init.ones_(model.tasks["segmentation"].head.attend.weight)  # 0 would stop its own gradient
        example = model.prepare(batch(), 0, 0)
        total, _ = losses_of(model, example)
        total.backward()
        totals.append(total.item())
    assert totals[0] == totals[1]
    gradients = {key: p.grad for key, p in model.named_parameters()}
    assert [key for key, gradient in gradients.items() if gradient is None] == []
    # A slope whose few inputs all happen to be positive has a gradient of 0.
    assert [key for key, g in gradients.items() if g.numel() > 1 and not g.abs().sum() > 0] == []
    features = model.network(example.crops.patches)
    side = features.backbone.shape[-1]
    assert features.backbone.shape == (4, model.network.channels, side, side)
    assert list(features.branches) == list(BRANCHES)
    assert all(branch.shape == features.backbone.shape for branch in features.branches.values())


def test_the_network_of_2021_has_the_parameters_that_its_description_implies():
    """Four ResNet-18 of 11,176,512 without heads; a unit per stage and branch; an aggregate per stage."""
    network = build(load([PRESETS / "paper-2021.yaml"]).network)
    assert sum(parameter.numel() for parameter in network.parameters()) == 71_537_856


def test_in_2021_a_row_of_patches_reaches_its_local_branch_first():
    task = build_model(small("sspl")).tasks["rotation"].eval()
    patches = torch.randn(2, 27, 32, 32)
    before = task.images({"patches": patches})
    patches[:, 9:18] += 1
    after = task.images({"patches": patches})
    changed = [name for name in BRANCHES if not torch.equal(before[name], after[name])]
    assert changed == ["whole", "middle"]


def test_in_2021_the_local_branches_attend_to_the_whole_and_the_whole_to_them():
    network = build(small("sspl").network).eval()
    pictures = {name: torch.randn(1, 3, 32, 32, requires_grad=True) for name in BRANCHES}
    features = network(pictures)
    for seen in BRANCHES:
        gradients = torch.autograd.grad(
            features.branches[seen].sum(), list(pictures.values()), retain_graph=True
        )
        assert all(gradient.abs().sum() > 0 for gradient in gradients)
    assert torch.equal(features.backbone, features.branches["whole"])
    assert list(LOCAL_BRANCHES) == ["upper", "middle", "lower"]


@pytest.mark.parametrize("name", ["spl", "sspl"])
@pytest.mark.parametrize("task", TASKS)
def test_each_task_trains_alone_and_builds_and_runs_nothing_that_it_does_not_read(name, task):
    model, units = build_model(small(name, *only(task))), []
    assert list(model.tasks) == [task]
    if task == "segmentation":
        nn.init.ones_(model.tasks[task].head.attend.weight)
    for module in model.modules():
        if isinstance(module, CrossAttentionUnit):
            module.register_forward_hook(lambda *_: units.append(1))
    example = model.prepare(batch(), 0, 0)
    assert list(example.targets) == [task]
    total, terms = losses_of(model, example)
    assert {term.split("/")[0] for term in terms} == {task}
    total.backward()
    trained = {key for key, p in model.named_parameters() if p.requires_grad}
    assert {key for key, p in model.named_parameters() if p.grad is not None} == trained
    if name == "spl":  # whose branches alone have units
        assert len(units) == (0 if task in ("segmentation", "rotation") else 8)


@pytest.mark.parametrize("task", TASKS)
def test_switching_a_task_off_changes_neither_draws_nor_first_weights_of_the_others(task):
    everything = build_model(small("spl", *only(*TASKS)))
    others = build_model(small("spl", *only(*(name for name in TASKS if name != task))))
    assert list(others.tasks) == [name for name in TASKS if name != task]
    before, after = (model.prepare(batch(), 5, 2) for model in (everything, others))
    another = others.prepare(batch(), 5, 3)
    assert torch.equal(before.crops.patches, after.crops.patches)
    assert not torch.equal(before.crops.patches, another.crops.patches)
    for name, targets in after.targets.items():
        assert targets.keys() == before.targets[name].keys()
        assert all(torch.equal(value, before.targets[name][key]) for key, value in targets.items())
    weights = everything.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in others.state_dict().items())


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({"adversarial": {"weight": -1.0}}, "adversarial.weight: Input should be greater than or"),
        ({"rotation": {"weight": 1.0, "angles": [45]}}, "rotation.angles.0: Input should be 0, 90"),
        ({"rotaton": {"weight": 1.0}}, "rotaton: there is no such task; known are segmentation"),
        ({"segmentation": {"weight": 1.0}}, "segmentation.upscale"),
        ({"adversarial": {"weight": 1.0, "x": 1}}, "adversarial.x: Extra inputs"),
        ({"adversarial": {"weight": 0.0}}, "every task has weight 0"),
    ],
)
def test_a_wrong_setting_of_a_task_is_named_with_its_full_key(tasks, message):
    config = small("spl")
    prefix = "" if "every" in message else "pretrain.tasks."
    with pytest.raises(UserError, match=f"{prefix}{message}"):
        PretrainModel(config.network, config.pretrain.model_copy(update={"tasks": tasks}))


def test_slopes_and_units_compute_what_the_plain_formulas_compute():
    config = small("spl", "network.stem=large", "network.input_size=64")
    values, gradients = [], []
    for plain in (False, True):
        model = build_model(config)
        example = model.prepare(batch(), 0, 0)
        if plain:
            make_plain(model)
            assert not any(isinstance(module, PReLU) for module in model.modules())
        model.double()
        draws = torch.Generator().manual_seed(1)
        for module in model.modules():
            if isinstance(module, nn.PReLU):
                module.weight.data.uniform_(-0.5, 1.0, generator=draws)
        torch.manual_seed(2)  # dropout
        patches = example.targets["rotation"]["patches"].double()
        outputs = model(example.crops.patches.double(), {"rotation": {"patches": patches}})
        flat = torch.cat([value.flatten() for task in outputs.values() for value in task.values()])
        flat.square().sum().backward()
        values.append(flat.detach())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert torch.allclose(values[0], values[1], rtol=1e-10, atol=1e-10)
    scale = gradients[1].abs().max()
    assert (gradients[0] - gradients[1]).abs().max() < 1e-11 * scale
    assert scale > 0


def test_the_slopes_gradient_is_right_on_a_channels_last_bfloat16_tensor():
    features = torch.randn(4, 8, 16, 16).to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
    found = []
    for layer in (PReLU(), nn.PReLU()):
        inputs = (features.float() if type(layer) is nn.PReLU else features).detach().requires_grad_()
        layer(inputs).float().square().sum().backward()
        found.append((inputs.grad.float(), layer.weight.grad))
    assert torch.allclose(found[0][0], found[1][0], rtol=0.02, atol=0.02)
    assert torch.allclose(found[0][1], found[1][1], rtol=0.01)


def test_the_model_compiles_as_one_graph():
    model = build_model(small("spl", "network.stem=large"))
    model.tasks["segmentation"].head.classify[3].p = 0.0
    example = model.prepare(batch(), 0, 0)
    expected = model(example.crops.patches, example.targets)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    outputs = compiled(example.crops.patches, example.targets)
    for task, key in (("segmentation", "logits"), ("adversarial", "local")):
        assert torch.allclose(outputs[task][key], expected[task][key], atol=1e-4)


@pytest.mark.parametrize("preset", ["paper.yaml", "paper-2021.yaml"])
def test_the_papers_presets_say_what_the_papers_say(preset):
    config = load([PRESETS / preset])
    settings, finetune = config.pretrain, config.finetune
    sides = {round(config.align.size * fraction) for fraction in settings.patch_fraction}
    assert sides == {config.network.input_size} == {224}
    assert round(config.align.size // GRID * CROP_FRACTION) == 150
    assert settings.steps * settings.batch_size == pytest.approx(80 * 162_770, abs=64)
    for run in finetune.runs:
        assert run.steps == pytest.approx(70 * run.labels * 162_770 / finetune.batch_size, abs=1)
    assert {block["weight"] for block in settings.tasks.values()} == {1.0}
