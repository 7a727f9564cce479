"""``python -m benchmarks.gpu``: what this machine's GPU makes of every stage, and checks that need one.

It draws its faces itself and uses random weights of the real networks, so that nothing is downloaded. A row
whose modules are not installed is named as skipped, and so is what six minutes do not suffice for. Without a
GPU everything runs on the CPU in small, and checks that need one are skipped by name. The share of a training
step is that of the rate of a large product of matrices, by PyTorch's own count of operations.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.gpu_checks import CHECKS, skipped
from benchmarks.gpu_timing import DEVICE, GPU, Row, draw_faces, rate
from benchmarks.gpu_training import stage_1, stage_2

SECONDS: Final = 330.0
"""After which no further row begins."""

MATRIX: Final = 8192 if GPU else 1024
PARSER_BATCHES: Final = (16, 64, 128) if GPU else (2,)
PARSER_SIDE: Final = 448 if GPU else 128


def main() -> None:
    """Print the table, row by row, then the checks."""
    began = time.monotonic()
    name = torch.cuda.get_device_name() if GPU else torch.cpu.get_capabilities().get("cpu_name", "CPU")
    print(f"on {name}, PyTorch {torch.__version__}{'' if GPU else ' (no GPU: small sizes)'}")
    print(f"| {'what':<52} | {'rate':>16} | {'notes':<60} |\n|---|---|---|")
    peak = 0.0
    for section in (matrices, parsing, detection, stage_1, stage_2):
        try:
            for row in section(peak):
                if section is matrices:
                    peak = max(peak, float(row[1].split()[0]))
                print(f"| {row[0]:<52} | {row[1]:>16} | {row[2]:<60} |", flush=True)
                if time.monotonic() - began > SECONDS:
                    break
        except (ImportError, torch.OutOfMemoryError) as error:
            print(f"| {section.__name__.replace('_', ' '):<52} | {'skipped':>16} | {skipped(error):<60} |")
        if time.monotonic() - began > SECONDS:
            print(f"the time is over after {section.__name__.replace('_', ' ')}; the rest is skipped")
            break
    for check in CHECKS:
        try:
            result = check(DEVICE, draw_faces(8, 128))
        except (ImportError, torch.OutOfMemoryError) as error:
            result = f"skipped: {skipped(error)}"
        except (AssertionError, RuntimeError) as error:
            result = f"FAILED: {str(error).splitlines()[0][:150]}"
        print(f"check: {(check.__doc__ or '').splitlines()[0]} {result}", flush=True)
    print(f"{time.monotonic() - began:.0f} s in all")


def matrices(peak: float) -> Iterator[Row]:
    """TFLOP/s of a product of two large matrices, in float32 and bfloat16."""
    for dtype in (torch.float32, torch.bfloat16):
        left, right = (torch.randn(MATRIX, MATRIX, device=DEVICE, dtype=dtype) for _ in range(2))
        flops = rate(lambda left=left, right=right: left @ right, 2 * MATRIX**3) / 1e12  # type: ignore[misc]
        yield f"product of {MATRIX} x {MATRIX}, {str(dtype)[6:]}", f"{flops:.2f} TFLOP/s", ""


def parsing(peak: float) -> Iterator[Row]:
    """The parser's network alone, and from JPEG to PNG with the host's threads beside it."""
    from facexlib.parsing.bisenet import BiSeNet

    from common.parsing.facexlib_networks import BISENET
    from common.parsing.network import normalised

    network = BiSeNet(num_class=19).eval()
    kinds = (
        ("float32", torch.float32, torch.contiguous_format, False),
        ("bfloat16", torch.bfloat16, torch.contiguous_format, False),
        ("bfloat16, channels-last", torch.bfloat16, torch.channels_last, False),
        ("bfloat16, channels-last, compiled", torch.bfloat16, torch.channels_last, True),
    )
    for kind, dtype, layout, compiled in kinds:
        if compiled and not GPU:
            yield f"parse, BiSeNet, {kind}", "skipped", "compiling for a CPU takes minutes"
            continue
        model = network.to(DEVICE).to(memory_format=layout)
        run: Any = torch.compile(model) if compiled else model
        for batch in PARSER_BATCHES:
            faces, _ = draw_faces(batch, 256)
            files = [cv2.imencode(".jpg", face)[1] for face in faces]

            def scores(
                pixels: Tensor, run: Any = run, dtype: torch.dtype = dtype, layout: Any = layout
            ) -> Tensor:
                with (
                    torch.inference_mode(),
                    torch.autocast(DEVICE.type, dtype, enabled=dtype != torch.float32),
                ):
                    return run(pixels.contiguous(memory_format=layout))[0]  # type: ignore[no-any-return]

            pixels = normalised(faces, BISENET, PARSER_SIDE, DEVICE)
            bare = rate(lambda scores=scores, pixels=pixels: scores(pixels), batch)  # type: ignore[misc]
            with ThreadPoolExecutor() as pool:
                whole = partial(parse_files, files, scores, pool, [])
                end_to_end = rate(whole, batch)
            note = f"{end_to_end / bare:.0%} of the bare network's {bare:.1f}"
            yield f"parse, BiSeNet, {kind}, batch {batch}", f"{end_to_end:.1f} faces/s", note


def parse_files(
    files: list[Any], scores: Callable[[Tensor], Tensor], pool: ThreadPoolExecutor, pending: list[Any]
) -> None:
    """Parse JPEGs; threads write the masks while the next ones are parsed."""
    from common.parsing.facexlib_networks import BISENET
    from common.parsing.masks import mean_by_class, most_probable
    from common.parsing.network import normalised

    def store(mask: NDArray[np.uint8], confidence: NDArray[np.float32]) -> int:
        mean_by_class(confidence[None], mask[None])
        return len(cv2.imencode(".png", mask)[1])

    decoded = np.stack(list(pool.map(lambda file: cv2.imdecode(file, 1), files))).astype(np.uint8)
    with torch.inference_mode():
        values = scores(normalised(decoded, BISENET, PARSER_SIDE, DEVICE)).float()
        classes, sure = most_probable(values, BISENET, PARSER_SIDE, decoded.shape[1])
    for future in pending:
        future.result()
    both = zip(classes.cpu().numpy(), sure.cpu().numpy(), strict=True)
    pending[:] = [pool.submit(store, *each) for each in both]


def detection(peak: float) -> Iterator[Row]:
    """RetinaFace with random weights, the anchors and all, without a face that passes the threshold."""
    from facexlib.detection.retinaface import RetinaFace

    from common.alignment.detector import detect

    detector = RetinaFace(network_name="mobile0.25").eval().to(DEVICE)
    detector.mean_tensor = detector.mean_tensor.to(DEVICE)
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3)).astype(np.uint8)
    images_per_second = rate(lambda: detect(image, detector, 1.1), 1)
    yield "detect at 480 x 640, one by one", f"{images_per_second:.1f} images/s", ""


if __name__ == "__main__":
    main()
