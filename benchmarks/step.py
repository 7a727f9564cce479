"""``python -m benchmarks.step``: samples/s of one optimisation step of stage 1, measure by measure.

Every row adds one measure to the row before and is timed against the plain step: two processes take
turns, one step each, round after round, so that whatever else the machine does meets both alike. Ratios
are medians over the rounds. Time is the process's CPU time, all threads and the kernel's share
included, on one thread, unless ``--wall`` and ``--threads`` say otherwise. Targets are made beforehand:
the step is forward, backward and Adam.
"""

import multiprocessing
import statistics
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.plain import make_plain
from benchmarks.processes import run
from common.config import Config, load
from common.errors import UserError
from common.memory import keep_freed_memory
from training.data.loader import Batch
from training.engine.optim import adam
from training.pretrain.model import Example, PretrainModel


@dataclass(frozen=True)
class Measures:
    """What a row does beyond plain PyTorch."""

    title: str
    memory: bool = False
    channels_last: bool = False
    bfloat16: bool = False
    formulas: bool = False
    adam: bool = False
    compiled: bool = False
    convolutions: bool = False


DEFAULT = Measures(
    "+ fused Adam: the default", memory=True, channels_last=True, bfloat16=True, formulas=True, adam=True
)
ROWS = (
    Measures("plain: float32, eager, contiguous"),
    Measures("+ freed memory kept", memory=True),
    Measures("+ channels-last", memory=True, channels_last=True),
    Measures("+ bfloat16", memory=True, channels_last=True, bfloat16=True),
    Measures("+ PReLU and units", memory=True, channels_last=True, bfloat16=True, formulas=True),
    DEFAULT,
)
COMPILED = replace(DEFAULT, title="+ torch.compile", compiled=True)
LIMIT = replace(DEFAULT, title="limit: its convolutions alone", convolutions=True)


def main() -> None:
    """Read the command line, run the rounds and print one table per input size."""
    parser = ArgumentParser(description="Samples/s of one optimisation step, measure by measure.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 112], metavar="PIXELS")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--wall", action="store_true", help="wall clock, for a machine with nothing else to do"
    )
    parser.add_argument("--network", default="spl", help="network.name")
    parser.add_argument("--ends", action="store_true", help="only the first and the last row")
    parser.add_argument("--compile", action="store_true", help="a row with torch.compile (minutes)")
    options = parser.parse_args()
    rows: tuple[Measures, ...] = (ROWS[0], ROWS[-1]) if options.ends else ROWS
    clock = "samples/s" if options.wall else "samples per CPU second"
    rows += (COMPILED, LIMIT) if options.compile else (LIMIT,)
    for size in options.sizes:
        config = load(
            settings=[
                f"network.name={options.network}",
                "network.width=64",
                "network.stem=large",
                f"network.input_size={size}",
            ]
        )
        print(f"\n{options.network} at {size} pixels, batch {options.batch}, {options.threads} thread(s)")
        print(f"{'':<36}{clock:>24}{'ratio to plain':>16}{'to the row before':>19}")
        before = 1.0
        for row in rows[1:]:
            plain, times = measure(row, config, options)
            if before == 1.0:
                print(f"{ROWS[0].title:<36}{options.batch / statistics.median(plain):>24.2f}{1:>16.2f}")
            ratio = statistics.median(a / b for a, b in zip(plain, times, strict=True))
            speed = options.batch / statistics.median(times)
            print(f"{row.title:<36}{speed:>24.2f}{ratio:>16.2f}{ratio / before:>19.2f}", flush=True)
            before = ratio


def measure(row: Measures, config: Config, options: Namespace) -> tuple[list[float], list[float]]:
    """Seconds of a plain step and of one with the measures of `row`, by round, in turn.

    Both take one step first that is not counted.

    Raises:
        UserError: a process ended, most likely because memory ran out.
    """
    context = multiprocessing.get_context("spawn")
    workers = []
    for measures in (ROWS[0], row):
        ours, theirs = context.Pipe()
        arguments = (theirs, measures, config, options)
        context.Process(target=_serve, args=arguments, daemon=True).start()
        theirs.close()
        workers.append((ours, list[float]()))
    try:
        for pipe, _ in workers:
            pipe.send(True)
            pipe.recv()
        for _ in range(options.rounds):
            for pipe, times in workers:
                pipe.send(True)
                times.append(pipe.recv())
        for pipe, _ in workers:
            pipe.send(False)
    except (EOFError, BrokenPipeError) as error:
        raise UserError(f"{row.title}: a process ended (out of memory?); lower --batch") from error
    return workers[0][1], workers[1][1]


def _serve(pipe: Connection, row: Measures, config: Config, options: Namespace) -> None:
    torch.set_num_threads(options.threads)
    step = prepare(row, config, options.batch)
    clock = time.perf_counter if options.wall else time.process_time
    while pipe.recv():
        began = clock()
        step()
        pipe.send(clock() - began)


def prepare(row: Measures, config: Config, batch: int) -> Callable[[], None]:
    """One optimisation step of all tasks on a random batch, with the measures of `row`."""
    if row.memory:
        keep_freed_memory()
    torch.manual_seed(0)
    layout = torch.channels_last if row.channels_last else torch.contiguous_format
    model = PretrainModel(config.network, config.pretrain)
    adversaries = nn.ModuleDict({t.name: made for t in model.active() if (made := t.adversary()) is not None})
    if not row.formulas:
        make_plain(model)
    model.to(memory_format=layout)
    parameters, settings = list(model.parameters()), config.pretrain
    optimizer = adam([(parameters, settings.learning_rate)], settings.weight_decay)
    if not row.adam:
        optimizer = torch.optim.Adam(
            parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
    example = model.prepare(random_batch(batch, 2 * config.network.input_size), 0, 0)
    patches = example.crops.patches.contiguous(memory_format=layout)
    if row.convolutions:
        return convolutions_alone(model, example)
    forward = torch.compile(model) if row.compiled else model

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=row.bfloat16):
            total, _ = model.losses(forward(patches, example.targets), example.targets, adversaries)
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        optimizer.step()

    return step


def random_batch(count: int, side: int) -> Batch:
    """A batch of noise; its masks have 19 classes."""
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)
    masks = torch.randint(0, 19, (count, side, side), dtype=torch.uint8)
    return Batch(images, masks, torch.arange(count))


def convolutions_alone(model: PretrainModel, example: Example) -> Callable[[], None]:
    """The model's convolutions, forward and backward in bfloat16, with nothing between them.

    No step that computes the same convolutions directly can be faster.
    """
    calls: list[tuple[nn.Conv2d, torch.Size, bool]] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, nn.Conv2d)
        calls.append((layer, inputs[0].shape, inputs[0].requires_grad))

    hooks = [m.register_forward_pre_hook(note) for m in model.modules() if isinstance(m, nn.Conv2d)]
    with torch.autocast("cpu", torch.bfloat16):
        model(example.crops.patches, example.targets)
    for hook in hooks:
        hook.remove()

    def random(shape: torch.Size) -> Tensor:
        return torch.randn(shape, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)

    inputs = {shape: random(shape) for _, shape, _ in calls}
    weights = {layer: layer.weight.detach().bfloat16() for layer, _, _ in calls}
    gradients: dict[torch.Size, Tensor] = {}

    def step() -> None:
        for layer, shape, wanted in calls:
            outputs = F.conv2d(inputs[shape], weights[layer], None, layer.stride, layer.padding)
            if outputs.shape not in gradients:
                gradients[outputs.shape] = random(outputs.shape)
            torch.ops.aten.convolution_backward(
                gradients[outputs.shape],
                inputs[shape],
                weights[layer],
                None,
                layer.stride,
                layer.padding,
                layer.dilation,
                False,
                [0, 0],
                1,
                [wanted, True, False],
            )

    return step


if __name__ == "__main__":
    run(main)
