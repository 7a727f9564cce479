"""The checks of ``benchmarks.gpu``: each gives a line of what it saw, or fails.

Each takes the device and drawn faces, uint8 (N, S, S, 3), with their masks, uint8 (N, S, S).
"""

import copy
import io
from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Faces = tuple[NDArray[np.uint8], NDArray[np.uint8]]

SMALL: Final = ["network.width=16", "network.input_size=64", "network.stem=small"]


def skipped(error: BaseException) -> str:
    """Why a row or a check is left out."""
    return f"no module {error.name}" if isinstance(error, ImportError) else "the memory does not suffice"


def shared_by_processes(device: torch.device, faces: Faces) -> str:
    """DDP over one device, with synchronised batch norm, gives the plain model's loss in training and val."""
    plain, batch, losses = _stage_1(device, faces)
    shared = copy.deepcopy(plain)
    if device.type == "cuda":
        shared = nn.SyncBatchNorm.convert_sync_batchnorm(shared)
    with TemporaryDirectory() as folder:
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=0, world_size=1)
        try:
            indices = [0] if device.type == "cuda" else None
            wrapped = DistributedDataParallel(shared, device_ids=indices)
            for training in (True, False):
                plain.train(training)
                wrapped.train(training)
                first, second = losses(plain, plain, batch), losses(shared, wrapped, batch)
                assert torch.allclose(first, second, rtol=1e-3), f"{first.item()} and {second.item()}"
                if training:
                    first.backward()
                    second.backward()
        finally:
            dist.destroy_process_group()
    return f"passed ({backend}{'' if device.type == 'cuda' else '; batch norm not, which needs a GPU'})"


def checkpoint_moves(device: torch.device, faces: Faces) -> str:
    """A checkpoint of this device gives its loss on the CPU too, and back here again."""
    model, batch, losses = _stage_1(device, faces)
    content = io.BytesIO()
    torch.save(model.state_dict(), content)
    values = []
    for target in (device, torch.device("cpu"), device):
        content.seek(0)
        copied = copy.deepcopy(model).to(target)
        copied.load_state_dict(torch.load(content, map_location=target, weights_only=True))
        content = io.BytesIO()
        torch.save(copied.state_dict(), content)
        with torch.no_grad():
            values.append(losses(copied.eval(), copied, batch.to(target)).item())
    assert values[0] == values[2], f"{values[0]} at first, {values[2]} after the way back"
    assert np.isclose(values[0], values[1], rtol=1e-2), f"{values[0]} here, {values[1]} on the CPU"
    return f"passed ({values[0]:.5f}, {values[1]:.5f}, {values[2]:.5f})"


def memory_suffices_for_less(device: torch.device, faces: Faces) -> str:
    """Out of memory in the parser halves the batch."""
    from common.parsing.parser import SplitOnMemoryError

    seen: list[int] = []

    def parse(batch: NDArray[np.uint8]) -> Any:
        seen.append(len(batch))
        if device.type != "cuda" and len(batch) > 4:
            raise torch.OutOfMemoryError("stand-in")
        share = torch.cuda.get_device_properties(device).total_memory // 8 if device.type == "cuda" else 1
        blocks = [torch.empty(share, dtype=torch.uint8, device=device) for _ in batch]
        del blocks
        return batch[..., 0], np.zeros((len(batch), 19), np.float32), {}

    many = np.concatenate([faces[0]] * 2)[:16]
    masks, _, _ = SplitOnMemoryError(parse)(many)
    assert np.array_equal(masks, many[..., 0]), "faces are missing or in another order"
    assert seen[:2] == [16, 8] and seen[-1] <= 8, f"batches of {seen}"
    return f"passed (batches of {seen}{'' if device.type == 'cuda' else ', a stand-in for the error'})"


def no_synchronisation(device: torch.device, faces: Faces) -> str:
    """No step of stage 1 makes the host wait for the GPU."""
    if device.type != "cuda":
        return "skipped: needs a GPU"
    model, batch, losses = _stage_1(device, faces)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    for number in range(3):
        if number == 2:
            torch.cuda.set_sync_debug_mode("error")
        try:
            loss = losses(model, model, batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return "passed"


def _stage_1(device: torch.device, faces: Faces) -> tuple[nn.Module, Any, Callable[..., Tensor]]:
    """A small model of all tasks, a batch on the device, and the loss of (model, as it is called, batch)."""
    from common.config import load
    from training.data.loader import Batch
    from training.pretrain.model import PretrainModel

    torch.manual_seed(0)
    config = load(settings=SMALL)
    model = PretrainModel(config.network, config.pretrain).to(device)
    made = {task.name: each for task in model.active() if (each := task.adversary()) is not None}
    adversaries = nn.ModuleDict(made).to(device).requires_grad_(False)
    images, masks = (torch.from_numpy(each) for each in faces)
    batch = Batch(images.permute(0, 3, 1, 2), masks, torch.arange(len(masks))).to(device)

    def losses(model: Any, called: Any, batch: Any) -> Tensor:
        torch.manual_seed(1)
        example = model.prepare(batch, 0, 0)
        outputs = called(example.crops.patches, example.targets)
        there = copy.deepcopy(adversaries).to(batch.images.device)
        return model.losses(outputs, example.targets, there)[0]  # type: ignore[no-any-return]

    return model, batch, losses


CHECKS: Final = (shared_by_processes, checkpoint_moves, memory_suffices_for_less, no_synchronisation)
