"""From the scores of a parser's network to masks: the most probable class of each stored pixel, and its side.

facexlib's BiSeNet was trained on mirrored faces whose left and right labels were not swapped: of
CelebAMask-HQ faces it assigns 3 % of the brow and eye pixels to the other side as they are and 89 % when they
are mirrored, of CelebA faces 32 %. Faces are upright once aligned, so what lies on the image's right of the
nose is the subject's left.
"""

from functools import lru_cache
from typing import Final

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from common.classes import CLASSES, FLIP_PAIRS, NUM_CLASSES
from common.parsing.class_map import ClassMap

# Scores per step on a CPU, so that they stay in its second-level cache: 1 MB as float32.
BAND: Final = 1 << 18
PAIRS: Final = tuple((CLASSES.index(left), CLASSES.index(right)) for left, right in FLIP_PAIRS)
NOSE: Final = CLASSES.index("nose")


def most_probable(scores: Tensor, class_map: ClassMap, input_size: int, stored: int) -> tuple[Tensor, Tensor]:
    """The most probable class of each stored pixel, uint8 (B, S, S), 0..18, and its probability, float32.

    Scores, float (B, C, h, w), of the classes of the file, are resized bilinearly to the input's size and
    from there to the stored one, S, in bands of rows.
    """
    batch, classes, height, width = scores.shape
    corners = class_map.coarse == "corners"
    columns = resampling(width, input_size, stored, corners).to(scores.device)
    wide = torch.matmul(scores.float().transpose(1, 2).contiguous(), columns).view(batch, height, -1)
    masks = torch.empty((batch, stored, stored), dtype=torch.uint8, device=scores.device)
    probabilities = torch.empty((batch, stored, stored), device=scores.device)
    step = max(1, BAND // (batch * classes * stored)) if scores.device.type == "cpu" else stored
    for rows, needed, weights in _bands(height, input_size, stored, corners, step):
        band = torch.matmul(weights.to(scores.device), wide[:, needed])
        masks[:, rows], probabilities[:, rows] = _decide(band.view(batch, -1, classes, stored), class_map)
    return masks, probabilities


def _decide(scores: Tensor, class_map: ClassMap) -> tuple[Tensor, Tensor]:
    """Class and probability, float (B, R, S) each, from scores (B, R, C, S), which are overwritten."""
    softmax_later = class_map.values == "logits" and class_map.classes == CLASSES
    if class_map.values == "logits" and not softmax_later:
        scores = scores.softmax(dim=2)
    if class_map.classes != CLASSES:
        ours = torch.tensor([CLASSES.index(name) for name in class_map.classes], device=scores.device)
        merged = scores.new_zeros((*scores.shape[:2], NUM_CLASSES, scores.shape[3]))
        scores = merged.index_add_(2, ours, scores)
    highest = scores.amax(dim=2, keepdim=True)
    probability = highest[:, :, 0]
    if softmax_later:  # softmax at its maximum, without the softmax
        odds = scores - highest
        if odds.device.type == "cpu":  # where OpenCV is four times as fast as PyTorch
            flat = odds.view(-1).numpy()
            cv2.exp(flat, dst=flat)
        else:
            odds.exp_()
        probability = odds.sum(dim=2).reciprocal_()
    numbers = torch.arange(NUM_CLASSES, dtype=scores.dtype, device=scores.device)[:, None]
    # Not argmax, which is not vectorised on CPUs.
    return scores.eq_(highest).mul_(numbers).amax(dim=2), probability


@lru_cache(maxsize=8)
def _bands(
    side: int, input_size: int, stored: int, corner_aligned: bool, step: int
) -> list[tuple[slice, slice, Tensor]]:
    """Every `step` rows of a mask, the rows of scores that they are made of, and the weights of these."""
    matrix = resampling(side, input_size, stored, corner_aligned).T
    bands = []
    for top in range(0, stored, step):
        weights = matrix[top : top + step]
        used = weights.any(dim=0).nonzero()
        needed = slice(int(used[0]), int(used[-1]) + 1)
        bands.append((slice(top, top + step), needed, weights[:, needed].contiguous()))
    return bands


@lru_cache(maxsize=8)
def resampling(side: int, input_size: int, stored: int, corner_aligned: bool) -> Tensor:
    """Both bilinear resizes of one axis, side to input_size to stored, as one matrix (side, stored).

    Resizing is linear, so the scores need not be computed at the size of the network's input.
    """
    steps = torch.eye(side)[None]
    if side != input_size:
        steps = F.interpolate(steps, input_size, mode="linear", align_corners=corner_aligned)
    if input_size != stored:
        steps = F.interpolate(steps, stored, mode="linear", align_corners=False)
    return steps[0]


def assign_sides(masks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Assign brows, eyes and ears of upright faces, in masks uint8 (B, S, S), to the side on which they lie.

    The midline is the bridge of the nose (its upper quarter), or, where no nose is visible, the middle of
    both brows and eyes. Other classes are untouched.
    """
    assigned = masks.copy()
    columns = np.arange(masks.shape[2])
    for mask in assigned:
        middle = _midline(mask)
        for left, right in PAIRS:
            either = (mask == left) | (mask == right)
            mask[either & (columns > middle)] = left
            mask[either & (columns <= middle)] = right
    return assigned


def _midline(mask: NDArray[np.uint8]) -> float:
    rows, columns = np.nonzero(mask == NOSE)
    if len(rows):
        bridge = rows <= rows.min() + (rows.max() - rows.min()) / 4
        return float(columns[bridge].mean())
    _, columns = np.nonzero(np.isin(mask, PAIRS[0] + PAIRS[1]))
    return float(columns.min() + columns.max()) / 2 if len(columns) else mask.shape[1] / 2


def mean_by_class(probability: NDArray[np.float32], masks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The mean probability of each class over its pixels, float32 (B, 19), of arrays (B, S, S)."""
    means = np.zeros((len(masks), NUM_CLASSES), np.float32)
    for mean, values, mask in zip(means, probability, masks, strict=True):
        count = np.bincount(mask.ravel(), minlength=NUM_CLASSES)
        mean[:] = np.bincount(mask.ravel(), values.ravel(), NUM_CLASSES) / np.maximum(count, 1)
    return means
