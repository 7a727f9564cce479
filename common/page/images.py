"""Images as ``data:`` addresses, for pages that load nothing."""

import base64
import io
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

JPEG_QUALITY: Final = 86


def data_uri(data: bytes, kind: str) -> str:
    """A ``data:`` address of an image file of MIME type ``image/KIND``."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def image_uri(image: NDArray[np.uint8], kind: Literal["jpeg", "png"], height: int | None = None) -> str:
    """An image, uint8 RGB (H, W, 3), or RGBA (H, W, 4) as PNG, scaled to `height` pixels if it is given."""
    file, stream = Image.fromarray(image), io.BytesIO()
    if height is not None:
        file = file.resize((round(file.width * height / file.height), height), Image.Resampling.BOX)
    file.save(stream, kind, quality=JPEG_QUALITY)
    return data_uri(stream.getvalue(), kind)
