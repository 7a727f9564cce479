"""One picture of what stage 1 does: patches, tiles and parts, each with its label and the answer."""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from common.classes import CLASS_COLOURS
from common.config import Config
from common.mask_overlay import mask_overlay
from training.data.loader import Batch
from training.data.transforms import MEAN, STD
from training.pretrain.model import Labels, Outputs
from training.pretrain.tasks.class_sets import CLASS_SETS, ClassSet
from training.pretrain.tasks.segmentation import upsample

Picture = NDArray[np.uint8]

ROWS: Final = 6
"""Faces in a picture, at most."""
SIDE: Final = 156
"""Pixels of a patch, and of all tiles of a face together."""
GAP: Final = 8
TITLE: Final = 26
COLUMN: Final = 100
"""Pixels that the parts of a branch are wide."""
WHITE: Final = (255, 255, 255)
INK: Final = (40, 40, 40)
FAINT: Final = (205, 205, 205)
TRUE: Final = (30, 160, 70)
WRONG: Final = (225, 90, 20)
"""Green is the label, and an answer that agrees with it; orange is an answer that does not."""


def tasks_picture(batch: Batch, labels: Labels, outputs: Outputs, config: Config) -> Picture:
    """A row per face, RGB uint8 (H, W, 3); a task of weight 0 leaves its columns out."""
    classes = CLASS_SETS[config.pretrain.classes]
    columns: list[tuple[str, list[Picture]]] = []
    count = min(ROWS, len(batch.indices))
    if len(labels.patches):
        patches = [_photo(patch) for patch in labels.patches[:count]]
        columns.append(("patch", patches))
        if outputs.segmentation.numel():
            answer = upsample(outputs.segmentation[:count], labels.masks.shape[-1]).argmax(1)
            for title, masks in (("pseudo-label", labels.masks), ("predicted", answer)):
                tinted = [_tinted(p, m, classes) for p, m in zip(patches, masks[:count], strict=True)]
                columns.append((title, tinted))
    if len(labels.turned.tiles):
        tiles = [_tiles(labels, outputs, row, config.network.tiles) for row in range(count)]
        columns.append(("turned tile: true, predicted", tiles))
    for branch, logits in outputs.classification.items():
        numbers = classes.branches[branch]
        names = [classes.names[number] for number in numbers]
        truths, answers = labels.parts[:count, list(numbers)] > 0, logits[:count] > 0
        parts = [_parts(names, t.tolist(), a.tolist()) for t, a in zip(truths, answers, strict=True)]
        columns.append((f"T  P  {branch}", parts))
    return np.hstack([_column(title, cells) for title, cells in columns])


def _column(title: str, cells: list[Picture]) -> Picture:
    width = cells[0].shape[1] + 2 * GAP
    heading = _canvas(TITLE, width)
    _write(heading, title, (GAP, 18), INK)
    padded = [cv2.copyMakeBorder(c, 0, GAP, GAP, GAP, cv2.BORDER_CONSTANT, value=WHITE) for c in cells]
    return np.vstack([heading, *padded]).astype(np.uint8, copy=False)


def _photo(patch: Tensor) -> Picture:
    pixels = patch.float().cpu().permute(1, 2, 0).numpy() * np.array(STD) + np.array(MEAN)
    return _scaled(np.rint(255 * pixels.clip(0, 1)).astype(np.uint8), cv2.INTER_LINEAR, SIDE)


def _tinted(photo: Picture, mask: Tensor, classes: ClassSet) -> Picture:
    colours = CLASS_COLOURS[[members[0] for members in classes.members]]
    return mask_overlay(photo, _scaled(mask.cpu().numpy().astype(np.uint8), cv2.INTER_NEAREST, SIDE), colours)


def _tiles(labels: Labels, outputs: Outputs, row: int, tiles: int) -> Picture:
    """The tiles as the network sees them, the turned and the predicted one framed, the answers below."""
    turned = labels.turned
    side, line = (SIDE - 18) // tiles, SIDE - 4
    picture = _canvas(SIDE, 190)
    contents = turned.tiles[row].float().cpu().unflatten(0, (tiles * tiles, 3))
    for number, tile in enumerate(contents):
        pixels = (tile.permute(1, 2, 0).numpy() * 50 + 128).clip(0, 255).astype(np.uint8)
        top, left = _corner(number, tiles, side)
        picture[top : top + side - 2, left : left + side - 2] = _scaled(pixels, cv2.INTER_AREA, side - 2)
    true_tile, true_angle = int(turned.tile[row]), int(turned.angle[row])
    if outputs.tile.numel():
        guess = int(outputs.tile[row].argmax())
        if guess != true_tile:
            _frame(picture, _corner(guess, tiles, side), side, WRONG)
        _write(
            picture, f"tile {true_tile + 1}, {guess + 1}", (0, line), TRUE if guess == true_tile else WRONG
        )
    _frame(picture, _corner(true_tile, tiles, side), side, TRUE)
    if outputs.angle.numel():
        guess = int(outputs.angle[row].argmax())
        shade = TRUE if guess == true_angle else WRONG
        _write(picture, f"{90 * true_angle}, {90 * guess} degrees", (70, line), shade)
    return picture


def _corner(number: int, tiles: int, side: int) -> tuple[int, int]:
    return number // tiles * side, number % tiles * side


def _frame(picture: Picture, corner: tuple[int, int], side: int, colour: tuple[int, int, int]) -> None:
    top, left = corner
    cv2.rectangle(picture, (left + 1, top + 1), (left + side - 4, top + side - 4), colour, 3)


def _parts(names: list[str], truths: list[bool], answers: list[bool]) -> Picture:
    """The parts of one branch: a box for the label, one for the answer, and the name."""
    picture = _canvas(SIDE, COLUMN - 2 * GAP)
    for line, (name, truth, answer) in enumerate(zip(names, truths, answers, strict=True)):
        top = 4 + 20 * line
        for left, filled, colour in (
            (0, truth, TRUE),
            (15, answer, TRUE if answer == truth else WRONG),
        ):
            cv2.rectangle(picture, (left, top), (left + 11, top + 11), colour if filled else FAINT, -1)
        if truth and not answer:
            cv2.rectangle(picture, (15, top), (26, top + 11), WRONG, 1)
        _write(picture, name[:10], (32, top + 10), INK if truth == answer else WRONG)
    return picture


def _scaled(picture: Picture, how: int, side: int) -> Picture:
    return cv2.resize(picture, (side, side), interpolation=how).astype(np.uint8, copy=False)


def _canvas(height: int, width: int) -> Picture:
    return np.full((height, width, 3), 255, np.uint8)


def _write(picture: Picture, text: str, place: tuple[int, int], colour: tuple[int, int, int]) -> None:
    cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.38, colour, 1, cv2.LINE_AA)
