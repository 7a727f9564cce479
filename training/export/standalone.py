"""Attributes of aligned faces by the files of this folder: ``python predict.py FACE.jpg ... > faces.csv``.

Needs numpy, opencv-python and onnxruntime. The central square of each picture must be a face that is aligned
as config.json says. A row holds the name of the picture and the probabilities of all attributes.
"""

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime

CLASSES = 19  # of the masks; among them brows, eyes and ears, left and right, and the nose
PAIRS, NOSE = ((2, 3), (4, 5), (7, 8)), 10
MAPS = ("stride8", "stride16", "stride32", "fused")


def load(folder: Path) -> Callable[[Any], Any]:
    """From a face, uint8 RGB (S, S, 3), to its logits, float64 (A,)."""
    probe = dict(np.load(folder / "classifier.npz"))
    parse, _ = network(folder / "parser.onnx", MAPS)
    further = [network(folder / "features" / f"{name}.onnx") for name in probe["networks"]]

    def logits_of(face: Any) -> Any:
        scores, *maps = parse(face)
        mask = mask_of(scores, probe["resize"])
        height = maps[-1].shape[1]
        nearest = ((np.arange(height) + 0.5) * len(mask) / height).astype(int)
        blocks = {"pooled": pooled(maps, np.eye(CLASSES)[mask[nearest][:, nearest]])}
        blocks["statistics"] = statistics(face, mask)
        embedded = [embedding(run(face), centre(mask, crop)) for run, crop in further]
        blocks["embedding"] = np.concatenate([[], *embedded])
        features = np.concatenate([blocks[name] for name in probe["blocks"]])
        return logits((features[None] - probe["mean"]) * probe["scale"], probe)[0]

    return logits_of


def network(file: Path, names: tuple[str, ...] = ()) -> tuple[Callable[[Any], list[Any]], float]:
    """A function from a face to the outputs that a network's description lists, then those with `names`.

    And the share of the face's side that the network sees.
    """
    form = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    session, crop = onnxruntime.InferenceSession(str(file)), form.get("crop", 1.0)
    wanted = [session.get_outputs()[number].name for number in np.atleast_1d(form["output"])] + [*names]
    channels, size = range(3) if form["channels"] == "RGB" else (2, 1, 0), (form["size"], form["size"])
    scale = [np.float32(1 / (form["scale"] * deviation)) for deviation in form["std"]]
    shift = np.divide(form["mean"], form["std"], dtype=np.float32)

    def run(face: Any) -> list[Any]:
        inner = centre(face, crop)
        planes = [cv2.resize(inner[..., c] * scale[i] - shift[i], size) for i, c in enumerate(channels)]
        given = {session.get_inputs()[0].name: np.stack(planes)[None]}
        return [each[0] for each in session.run(wanted, given)]

    return run, crop


def centre(image: Any, share: float) -> Any:
    """The centre of an image, a `share` of its side."""
    edge = round(len(image) * (1 - share) / 2)
    return image[edge : len(image) - edge, edge : len(image) - edge]


def mask_of(scores: Any, resize: Any) -> Any:
    """The class of each pixel, (S, S), from scores, (19, h, w); what is left or right, the nose says."""
    mask = (resize.T @ scores @ resize).argmax(axis=0)
    rows, columns = np.nonzero(mask == NOSE)
    middle = mask.shape[1] / 2
    if len(rows):
        middle = columns[rows <= rows.min() + (rows.max() - rows.min()) / 4].mean()
    elif len(columns := np.nonzero(np.isin(mask, PAIRS[:2]))[1]):
        middle = (columns.min() + columns.max()) / 2
    for left, right in PAIRS:
        side = np.where(np.arange(mask.shape[1]) > middle, left, right)
        mask = np.where((mask == left) | (mask == right), side, mask)
    return mask


def pooled(outputs: list[Any], pixels: Any) -> Any:
    """The means of outputs, (C,) or (C, h, w), and of the projected last map by class.

    `pixels` has how many of each class count at each position of that map, (h, w, 19).
    """
    last = [each for each in outputs if each.ndim == 3][-1]
    orthogonal, triangle = np.linalg.qr(np.random.default_rng(0).standard_normal((len(last), 64)))
    projection, flat = orthogonal * np.sign(np.diag(triangle)), pixels.reshape(-1, CLASSES)
    by_class = (last.reshape(len(last), -1) @ flat / np.maximum(flat.sum(axis=0), 1)).T @ projection
    means = [each.reshape(len(each), -1).mean(axis=1) for each in outputs]
    return np.concatenate([*means, by_class.ravel()]).astype(np.float16)


def embedding(outputs: list[Any], mask: Any) -> Any:
    """The features of a further network, whose outputs these are."""
    if all(each.ndim == 1 for each in outputs):
        return np.concatenate(outputs).astype(np.float16)
    side = [each for each in outputs if each.ndim == 3][-1].shape[-1]
    edges = np.arange(side) * len(mask) // side
    counts = np.add.reduceat(np.add.reduceat(np.eye(CLASSES)[mask], edges, axis=0), edges, axis=1)
    return pooled(outputs, counts)


def statistics(face: Any, mask: Any) -> Any:
    """By class the means and deviations of colour and position, and the root of the area."""
    lab, classes = cv2.cvtColor(np.ascontiguousarray(face[::2, ::2]), cv2.COLOR_RGB2LAB), mask[::2, ::2]
    values = np.stack([*np.moveaxis(lab, -1, 0), *np.indices(classes.shape) / len(classes)]).reshape(5, -1)
    pixels = np.eye(CLASSES)[classes.ravel()]
    count = np.maximum(pixels.sum(axis=0), 1)
    means, squares = values @ pixels / count, values**2 @ pixels / count
    deviations = np.sqrt(np.maximum(squares - means**2, 0))
    return np.concatenate([means, deviations, np.sqrt(pixels.mean(axis=0))[None]]).T.ravel()


def logits(faces: Any, probe: dict[str, Any]) -> Any:
    """Logits, (N, A), of standardised features, (N, D)."""
    if "references" not in probe:
        return faces @ probe["weights"] + probe["biases"]

    def squared(a: Any, b: Any) -> Any:
        return np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T, 0) / a.shape[1]

    def sums(distances: Any, weights: Any) -> Any:
        kernels = np.exp(-((distances / probe["width"] ** 2) ** (probe["power"] / 2)))
        return np.einsum("anr,ra->na", kernels, weights)

    references, share = probe["references"].astype(float), probe["prediction_share"]
    parts = [squared(faces[:, start:end], references[:, start:end]) for start, end in probe["columns"]]
    distances = np.tensordot(probe["block_weights"], np.stack(parts), 1)
    first = sums(distances, probe["first_weights"]) + probe["first_biases"]
    predictions = (first - probe["prediction_mean"]) * probe["prediction_scale"]
    between = squared(predictions, probe["reference_predictions"].astype(float))
    linear = faces @ probe["linear_weights"] + probe["biases"]
    return sums((1 - share) * distances + share * between, probe["weights"]) + linear


def read_face(file: str, side: int) -> Any:
    """The central square of a picture, uint8 RGB (S, S, 3), as the JPEG of a data set would keep it."""
    image = cv2.imread(file)
    if image is None:
        sys.exit(f"{file}: not a picture that OpenCV can read")
    length = min(image.shape[:2])
    top, left = ((whole - length) // 2 for whole in image.shape[:2])
    how = cv2.INTER_AREA if side < 0.75 * length else cv2.INTER_CUBIC
    face = cv2.resize(image[top : top + length, left : left + length], (side, side), interpolation=how)
    stored = cv2.imencode(".jpg", face, [cv2.IMWRITE_JPEG_QUALITY, 97])[1]
    return cv2.imdecode(stored, cv2.IMREAD_COLOR)[..., ::-1]  # type: ignore[index]


if __name__ == "__main__":
    folder, rows = Path(__file__).parent, csv.writer(sys.stdout)
    labels, logits_of = json.loads((folder / "config.json").read_text(encoding="utf-8")), load(folder)
    rows.writerow(["photo", *(each["name"] for each in labels["attributes"])])
    for file in sys.argv[1:]:
        values = logits_of(read_face(file, labels["input"]["shape"][1]))
        rows.writerow([file, *(1 / (1 + np.exp(-values))).tolist()])
