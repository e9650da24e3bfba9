"""Images as files and as numbers for a page."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.classifier import Images

_AMPLIFIED_AT_MOST = 1e6


def as_bytes(image: Images) -> NDArray[np.uint8]:
    """An image [h, w, c] in [0, 1] as uint8 [h, w, 3] or [h, w]; channels that no picture has are averaged."""
    pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    if pixels.shape[-1] == 1:
        return pixels[..., 0]
    if pixels.shape[-1] == 3:
        return pixels
    return np.asarray(pixels.mean(axis=-1), np.uint8)


def write_png(image: Images, path: Path) -> None:
    """Write an image as PNG."""
    Image.fromarray(as_bytes(image)).save(path)


def for_page(image: Images) -> dict[str, Any]:
    """An image for the page's script: width, height, channels, and the bytes in base64."""
    pixels = as_bytes(image)
    h, w = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else 3
    return {"width": w, "height": h, "channels": channels, "data": base64.b64encode(pixels.tobytes()).decode()}


def amplified(difference: Images) -> tuple[Images, float]:
    """A difference [h, w, c] as an image around middle grey, as strong as it can be shown, and how many times it was amplified."""
    largest = float(np.abs(difference).max(initial=0.0))
    times = 0.5 / largest if largest > 0 else 1.0
    return np.asarray(0.5 + difference * min(times, _AMPLIFIED_AT_MOST), np.float32), times
