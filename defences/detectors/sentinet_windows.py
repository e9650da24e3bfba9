"""The windows of SentiNet: their places, and their transplantation onto other images."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from models.classifier import Images

CORNERS = 4
"""Windows of the next level lie in the four corners of a window."""

Windows = NDArray[np.int64]
"""Numbers of windows: level by level, and the whole image last."""


def boxes(h: int, w: int, sides: tuple[float, ...]) -> NDArray[np.int64]:
    """Every window as [top, left, bottom, right], in pixels of an image of h rows and w columns.

    >>> boxes(10, 10, (0.6,)).tolist()
    [[0, 0, 6, 6], [0, 4, 6, 10], [4, 0, 10, 6], [4, 4, 10, 10], [0, 0, 10, 10]]
    """
    whole = np.array([[0, 0, h, w]])
    levels, outer = [], whole
    for side in sides:
        # Rounding must not leave a gap between the corners.
        height, width = (max(round(side * size), -(-int(outer[0, 2 + axis]) // 2)) for axis, size in enumerate((h, w)))
        inner = np.repeat(outer, CORNERS, axis=0)
        low, right = (np.tile(corner, len(outer)) for corner in ([0, 0, 1, 1], [0, 1, 0, 1]))
        top = np.where(low, np.maximum(inner[:, 2] - height, inner[:, 0]), inner[:, 0])
        left = np.where(right, np.maximum(inner[:, 3] - width, inner[:, 1]), inner[:, 1])
        outer = np.stack([top, left, top + height, left + width], axis=1)
        levels.append(outer)
    return np.concatenate([*levels, whole])


def corners_of(windows: Windows) -> Windows:
    """The windows of the next level in each of these: [...] -> [..., 4].

    >>> corners_of(np.array([0, 3])).tolist()
    [[4, 5, 6, 7], [16, 17, 18, 19]]
    """
    inside: Windows = CORNERS * (windows[..., None] + 1) + np.arange(CORNERS)
    return inside


def transplanted(
    images: Images, image_of: NDArray[np.int64], overlays: Images, overlay_of: NDArray[np.int64], places: NDArray[np.int64]
) -> Images:
    """Row r is overlay overlay_of[r] with the box places[r] of image image_of[r] in its place: [r, h, w, c]."""
    rows = np.empty((len(image_of), *overlays.shape[1:]), np.float32)
    _transplant(images, image_of, overlays, overlay_of, places, rows)
    return rows


@njit(nogil=True, cache=True)
def _transplant(images: Any, image_of: Any, overlays: Any, overlay_of: Any, places: Any, rows: Any) -> None:
    for r in range(len(rows)):
        picture, row = images[image_of[r]], rows[r]
        row[:] = overlays[overlay_of[r]]
        top, left, bottom, right = places[r]
        row[top:bottom, left:right] = picture[top:bottom, left:right]
