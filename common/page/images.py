"""Images of faces, masks and classes as ``data:`` addresses, for pages that load nothing."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from common.classes import CLASS_TITLES
from common.mask_overlay import mask_overlay

HEAT: Final = (0, 114, 178)
"""RGB of a heat map's full cell; empty cells are transparent, so it works on light and dark."""

JPEG_QUALITY: Final = 86


def data_uri(data: bytes, kind: str) -> str:
    """A ``data:`` address of an image file of MIME type ``image/KIND``."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def face_image(face: NDArray[np.uint8], side: int) -> str:
    """A face, uint8 RGB (S, S, 3), as a JPEG of `side` x `side` pixels."""
    return _encoded(_scaled(face, side), ".jpg", [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])


def face_and_mask(face: NDArray[np.uint8], mask: NDArray[np.uint8], side: int) -> str:
    """A JPEG of 2 `side` x `side` pixels: a face, uint8 RGB (S, S, 3), and the same tinted by its mask,
    uint8 (S, S).
    """
    pair = np.hstack([_scaled(face, side), _scaled(mask_overlay(face, mask), side)])
    return _encoded(pair, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])


def png_image(image: NDArray[np.uint8]) -> str:
    """An image, uint8 RGB (H, W, 3) or RGBA (H, W, 4), as a PNG."""
    return _encoded(image, ".png", [])


def heat_map(shares: NDArray[np.float64]) -> str:
    """Shares 0..1, float64 (G, G), as a PNG of G x G pixels whose opacity is the share."""
    image = np.empty((*shares.shape, 4), np.uint8)
    image[..., :3] = HEAT
    image[..., 3] = np.rint(255 * shares)
    return png_image(image)


@dataclass(frozen=True)
class ClassMap:
    """Where one class lies: its title, the share of samples that have it at all, and a heat map."""

    title: str
    share: float
    image: str


@dataclass(frozen=True)
class Presence:
    """Where the classes lie in a set of samples.

    Attributes:
        samples: how many. grid: cells per side.
        maps: of the classes that occur, in the order of `CLASSES`.
        absent: titles of the others.
    """

    samples: int
    grid: int
    maps: Sequence[ClassMap]
    absent: Sequence[str]


def presence(counts: NDArray[np.uint16]) -> Presence:
    """How often each class lies in each cell, from per-cell class counts, uint16 (N, G, G, 19), N > 0."""
    present = counts > 0
    cells, shares = present.mean(axis=0), present.any(axis=(1, 2)).mean(axis=0)
    titles = list(CLASS_TITLES.values())
    maps = [
        ClassMap(title, float(shares[number]), heat_map(cells[..., number]))
        for number, title in enumerate(titles)
        if shares[number]
    ]
    absent = [title for title, share in zip(titles, shares, strict=True) if not share]
    return Presence(len(counts), counts.shape[1], maps, absent)


def _scaled(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def _encoded(image: NDArray[Any], suffix: str, options: list[int]) -> str:
    order = cv2.COLOR_RGBA2BGRA if image.shape[2] == 4 else cv2.COLOR_RGB2BGR
    ok, data = cv2.imencode(suffix, cv2.cvtColor(image, order), options)
    if not ok:
        raise ValueError(f"OpenCV could not encode an image of shape {image.shape}")
    return data_uri(data.tobytes(), "jpeg" if suffix == ".jpg" else "png")
