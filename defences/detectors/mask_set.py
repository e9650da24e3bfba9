"""Masks that cover every patch: rectangles of an image, such that a patch of a given size lies wholly inside one, wherever it is.

Paper: Xiang, Mahloujifar & Mittal, USENIX Security 2022, arXiv:2108.09135 (R-covering mask sets). Here the places of a patch are shared
out among the masks unevenly, since the middle of an image says most about its class.

Maths: along an axis of n pixels a patch of p pixels begins at one of n - p + 1 places. They are cut into three runs of consecutive
places, the middle one the shortest; the mask of the run from place a to place b, both included, covers the pixels a to b + p - 1, and so
every patch that begins in its run. The masks of an image are the products of those of its axes.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from defences.errors import InvalidInput
from models.classifier import Images
from models.image_rows import ImageRows, blocks

MASKS = 9
"""Three along each axis: ten model calls with the image itself."""

MIDDLE = 0.22
"""The share of the places that is left to the middle one of three masks."""

Boxes = NDArray[np.int64]
"""Rectangles int64 [m, 4] as [top, left, bottom, right]; bottom and right are the first row and column outside."""

Run = tuple[int, int]
"""Consecutive places of a patch along an axis, first and last."""

_SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})", re.ASCII)


def read_patch(text: str) -> tuple[int, int]:
    """Read "5x5", the height and the width of a patch. Raises: InvalidInput, one sentence.

    >>> read_patch("5x7")
    (5, 7)
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise InvalidInput(
            f"expected the size of a patch (--patch) as its height and width in pixels, HEIGHTxWIDTH as in 5x5, got {text!r}"
        )
    return int(found[1]), int(found[2])


def check_patch(patch: tuple[int, int], shape: tuple[int, ...]) -> None:
    """Raises: InvalidInput: a patch that leaves nothing of an image of this shape [h, w, ...] to judge by."""
    if any(2 * size > side for size, side in zip(patch, shape[:2], strict=True)):
        raise InvalidInput(
            f"expected a patch (--patch) of at most half of the image's height and width, {shape[0]}x{shape[1]}, got "
            f"{patch[0]}x{patch[1]}: its masks would leave too little of the image to tell its class"
        )


def runs(places: int, middle: float = MIDDLE) -> list[Run]:
    """Three runs that together hold all places; where there are fewer than three, some are the same.

    Args:
        middle: share of the places in the middle run, above 0 and at most 1/3.

    >>> runs(28)
    [(0, 10), (11, 16), (17, 27)]
    """
    inner = max(1, round(middle * places))
    outer = max(1, (places - inner + 1) // 2)
    first, last = (0, min(outer, places) - 1), (max(places - outer, 0), places - 1)
    between = (first[1] + 1, last[0] - 1)
    return [first, between if between[0] <= between[1] else first, last]


def mask_boxes(shape: tuple[int, ...], patch: tuple[int, int], middle: float = MIDDLE) -> Boxes:
    """The masks for images of this shape [h, w, ...], row by row: [9, 4].

    >>> mask_boxes((32, 32), (5, 5))[[0, 4]].tolist()
    [[0, 0, 15, 15], [11, 11, 21, 21]]
    """
    rows, columns = (runs(side - size + 1, middle) for side, size in zip(shape[:2], patch, strict=True))
    return np.array(
        [
            [top, left, bottom + patch[0], right + patch[1]]  # of the last place in the run
            for top, bottom in rows
            for left, right in columns
        ]
    )


def under_masks(images: Images, boxes: Boxes, colour: NDArray[np.float32]) -> Images:
    """Every image under every mask: [n, h, w, c], [m, 4], [c] -> [n * m, h, w, c], image by image.

    A row does not depend on the pixels under its mask, and so not on a patch that lies inside it.
    """
    rows = np.repeat(images[:, None], len(boxes), axis=1)
    for number, (top, left, bottom, right) in enumerate(boxes):
        rows[:, number, top:bottom, left:right] = colour
    masked: Images = rows.reshape(-1, *images.shape[1:])
    return masked


def mean_colour(images: ImageRows) -> tuple[float, ...]:
    """The mean of every channel, rounded to what a pixel of 8 bits can be: data that are alike have the same, or almost."""
    total = np.sum([images[block].sum(axis=(0, 1, 2), dtype=np.float64) for block in blocks(images)], axis=0)
    n, h, w, _ = images.shape
    return tuple((np.rint(total / (n * h * w) * 255) / 255).tolist())
