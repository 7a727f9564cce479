"""The rows of ``benchmarks.gpu`` about training: steps of both stages at the presets ``paper`` and ``mini``.

Threads decode the faces from memory, as many as the preset has; reading shards is not measured.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu_timing import DEVICE, GPU, ROW_SECONDS, Row, draw_faces, rate, wait

PRESETS: Final = Path(__file__).resolve().parent.parent / "presets"


def stage_1(peak: float) -> Iterator[Row]:
    """Steps of all pretext tasks, with faces that threads decode from memory."""
    from common.config import load

    for preset in ("paper", "mini"):
        config = load([PRESETS / f"{preset}.yaml"], [] if GPU else ["network.width=16", "align.size=128"])
        batch = config.pretrain.batch_size if GPU else 4
        step = pretrain_step(config)
        yield training_row(f"stage 1, {preset}", step, batch, config.align.size, config, peak)


def pretrain_step(config: Any) -> Callable[[Any], Tensor]:
    """One optimisation step of stage 1 on a batch on the device; gives the loss."""
    from training.engine.optim import adam
    from training.pretrain.model import PretrainModel

    torch.manual_seed(0)
    model = PretrainModel(config.network, config.pretrain).to(DEVICE).to(memory_format=torch.channels_last)
    made = {task.name: each for task in model.active() if (each := task.adversary()) is not None}
    adversaries = nn.ModuleDict(made).to(DEVICE).requires_grad_(False)
    optimizer = adam([(list(model.parameters()), config.pretrain.learning_rate)], 0.0)

    def step(batch: Any) -> Tensor:
        example = model.prepare(batch, 0, 0)
        with torch.autocast(DEVICE.type, torch.bfloat16):
            outputs = model(example.crops.patches, example.targets)
            loss, _ = model.losses(outputs, example.targets, adversaries)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss

    return step


def stage_2(peak: float) -> Iterator[Row]:
    """Steps of fine-tuning, and the same networks in prediction."""
    from common.config import load
    from synthetic.attributes import CELEBA_ATTRIBUTES
    from training.engine.optim import adam
    from training.models.attribute_network import AttributeNetwork, attribute_loss
    from training.models.blocks import to_input

    for preset in ("paper", "mini"):
        config = load([PRESETS / f"{preset}.yaml"], [] if GPU else ["network.width=16", "align.size=128"])
        side, batch = config.network.input_size, config.finetune.batch_size if GPU else 4
        model = AttributeNetwork(config.network, CELEBA_ATTRIBUTES).to(DEVICE)
        model = model.to(memory_format=torch.channels_last)
        optimizer = adam([(list(model.parameters()), 1e-4)], 0.0)
        labels = torch.randint(0, 2, (batch, len(CELEBA_ATTRIBUTES)), device=DEVICE)

        def step(
            batch: Any, model: Any = model, optimizer: Any = optimizer, side: int = side, labels: Any = labels
        ) -> Tensor:
            with torch.autocast(DEVICE.type, torch.bfloat16):
                logits = model(to_input(batch.images, side))
            loss = attribute_loss(logits, labels, model.groups)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            return loss

        yield training_row(f"stage 2, {preset}", step, batch, config.align.size, config, peak)
        many = 256 if GPU else 8
        inputs = torch.randn(many, 3, side, side, device=DEVICE).contiguous(memory_format=torch.channels_last)
        model.eval()

        def predict(model: Any = model, inputs: Tensor = inputs) -> NDArray[np.float32]:
            with torch.inference_mode(), torch.autocast(DEVICE.type, torch.bfloat16):
                return model(inputs).float().cpu().numpy()  # type: ignore[no-any-return]

        yield f"predict from crops, {preset}, batch {many}", f"{rate(predict, many):.1f} faces/s", ""


def training_row(
    title: str, step: Callable[[Any], Tensor], batch: int, side: int, config: Any, peak: float
) -> Row:
    """Samples/s of `step`, the share of the time in which it waits for data, memory, and share of `peak`."""
    from training.data.loader import Batch

    faces, masks = draw_faces(batch, side)
    files = [
        (cv2.imencode(".jpg", face)[1], cv2.imencode(".png", mask)[1])
        for face, mask in zip(faces, masks, strict=True)
    ]

    def read() -> Any:
        decoded = [(cv2.imdecode(face, 1), cv2.imdecode(mask, 0)) for face, mask in files]
        images, classes = (torch.from_numpy(np.stack(each)) for each in zip(*decoded, strict=True))
        made = Batch(images.permute(0, 3, 1, 2), classes, torch.arange(batch))
        return made.pinned() if GPU else made

    waited = 0.0
    ahead = config.trainer.loader_workers
    with FlopCounterMode(display=False) as counter:
        step(read().to(DEVICE))
    if GPU:
        torch.cuda.reset_peak_memory_stats()
    with ThreadPoolExecutor(ahead) as pool:
        queue = [pool.submit(read) for _ in range(2 * ahead)]

        def timed() -> None:
            nonlocal waited
            began = time.monotonic()
            data = queue.pop(0).result()
            waited += time.monotonic() - began
            queue.append(pool.submit(read))
            step(data.to(DEVICE))

        for _ in range(2):
            timed()
        wait()
        waited, began, count = 0.0, time.monotonic(), 0
        while count < 3 or time.monotonic() - began < 2 * ROW_SECONDS:
            timed()
            count += 1
        wait()
        seconds = time.monotonic() - began
    memory = f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GB" if GPU else ""
    used = counter.get_total_flops() * count / seconds / 1e12
    note = f"{waited / seconds:.0%} waiting for data{memory}, {used / max(peak, 1e-9):.0%} of the product"
    return f"{title}, batch {batch}", f"{batch * count / seconds:.1f} samples/s", note
