"""The members of a sample in bytes: faces, masks, class counts, features and metadata.

Only these are ever decoded, never with pickle.
"""

import io
import json
from collections.abc import Mapping
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from common.classes import NUM_CLASSES

# The members of a finished sample, in the order in which a tar holds them.
MEMBERS: Final = ("jpg", "mask.png", "parts.npy", "json")
# Members that follow if there are features: the parser's own, and those of further networks.
FEATURE_MEMBERS: Final = ("pooled.npy", "embedding.npy")
FEATURE_CHANNELS: Final = 64  # Channels of the parser's features of each class, in ``pooled.npy``
# Ends the name of a field of ``embedding.npy`` that has features of each class, (19, K).
OF_CLASSES: Final = ".classes"
JPEG_QUALITY: Final = 97  # Of stored faces, of 100


class BrokenSample(ValueError):
    """A member that does not decode to what the format promises."""


def encode_face(face: NDArray[np.uint8]) -> bytes:
    """JPEG bytes of an RGB face, uint8 (S, S, 3), at `JPEG_QUALITY`."""
    return _encode(".jpg", cv2.cvtColor(face, cv2.COLOR_RGB2BGR), cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY)


def decode_face(data: bytes) -> NDArray[np.uint8]:
    """An RGB face, uint8 (H, W, 3), from JPEG bytes; a `BrokenSample` if they are not an image."""
    image = _decode(data, cv2.IMREAD_COLOR)
    if image is None:
        raise BrokenSample(f"{len(data)} bytes that are not a JPEG image")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def _encode(suffix: str, image: NDArray[Any], *options: int) -> bytes:
    ok, encoded = cv2.imencode(suffix, image, options)
    if not ok:
        raise BrokenSample(f"OpenCV could not encode {suffix} of shape {image.shape}")
    return encoded.tobytes()


def _decode(data: bytes, mode: int) -> NDArray[Any] | None:
    """The image that OpenCV decodes, or None if it cannot, for example because of the declared size."""
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), mode) if data else None
    except cv2.error:
        return None


def encode_mask(mask: NDArray[np.uint8]) -> bytes:
    """PNG bytes of a mask, uint8 (S, S), classes 0..18."""
    if mask.dtype != np.uint8 or mask.ndim != 2 or mask.max(initial=0) >= NUM_CLASSES:
        raise BrokenSample(f"a mask must be uint8 (S, S) with classes below {NUM_CLASSES}")
    # Of zlib's strategies run lengths make the smallest masks, in half the time of the default.
    return _encode(".png", mask, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE)


def decode_mask(data: bytes) -> NDArray[np.uint8]:
    """A class mask, uint8 (H, W), from PNG bytes.

    Raises:
        BrokenSample: the bytes are not an 8-bit single-channel image, or hold another class.
    """
    mask = _decode(data, cv2.IMREAD_UNCHANGED)
    if mask is None or mask.ndim != 2 or mask.dtype != np.uint8:
        raise BrokenSample(f"{len(data)} bytes that are not an 8-bit single-channel PNG mask")
    if mask.max(initial=0) >= NUM_CLASSES:
        raise BrokenSample(f"mask value {mask.max()} is not a class (0..{NUM_CLASSES - 1})")
    return mask.astype(np.uint8, copy=False)


def encode_array(array: NDArray[Any]) -> bytes:
    """NPY bytes of class counts per cell, uint16 (G, G, 19), or of features, see `feature_fields`."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def decode_cell_counts(data: bytes) -> NDArray[np.uint16]:
    """Per-cell class counts, uint16 (G, G, 19), from NPY bytes.

    Raises:
        BrokenSample: the bytes are not such an array; a pickled one is refused too.
    """
    counts = _array(data)
    if counts.dtype != np.uint16 or counts.ndim != 3 or counts.shape[2] != NUM_CLASSES:
        raise BrokenSample(
            f"class counts must be uint16 (G, G, {NUM_CLASSES}), not {counts.dtype} {counts.shape}"
        )
    return counts


def decode_features(data: bytes) -> NDArray[np.float16]:
    """The features of a face, float16 (D,), from NPY bytes, one field after the other.

    Raises:
        BrokenSample: as for `feature_fields`, or they hold a number that is not finite.
    """
    features = np.concatenate([values.ravel() for values in feature_fields(data).values()])
    if not np.isfinite(features).all():
        raise BrokenSample("features that are not finite")
    return features


def feature_fields(data: bytes) -> dict[str, NDArray[np.float16]]:
    """The features of a face by field of an array of shape (), or under "" those of float16 (D,).

    Raises:
        BrokenSample: the bytes are neither, or a field is not float16.
    """
    array = _array(data)
    fields = {name: array[name] for name in array.dtype.names} if array.dtype.names else {"": array}
    if array.ndim != (not array.dtype.names) or any(each.dtype != np.float16 for each in fields.values()):
        raise BrokenSample(f"features must be float16 (D,) or fields, not {array.dtype} {array.shape}")
    return fields


def _array(data: bytes) -> NDArray[Any]:
    try:
        return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except (ValueError, TypeError, EOFError, OSError, OverflowError, MemoryError) as error:
        raise BrokenSample(f"{len(data)} bytes that are not an NPY array: {error}") from error


def encode_metadata(metadata: Mapping[str, Any]) -> bytes:
    """Canonical JSON bytes: sorted keys, UTF-8, one trailing newline."""
    return (json.dumps(metadata, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def decode_metadata(data: bytes) -> dict[str, Any]:
    """The metadata of a sample, from JSON bytes; a `BrokenSample` if they are not a JSON object."""
    try:
        metadata = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BrokenSample(f"{len(data)} bytes that are not JSON: {error}") from error
    if not isinstance(metadata, dict):
        raise BrokenSample(f"a JSON object was expected, not {type(metadata).__name__}")
    return metadata
