"""Masks that cover every patch: rectangles of an image, such that a patch of a given size lies wholly inside one, wherever it is.

Paper: Xiang, Mahloujifar & Mittal, USENIX Security 2022, arXiv:2108.09135 (R-covering mask sets). Here the places of a patch
are shared out among the masks as evenly as whole numbers allow, so that no mask is larger than it has to be.

Maths: along an axis of n pixels a patch of p pixels begins at one of n - p + 1 places. They are cut into k runs of consecutive places;
the mask of the run from place a to place b, both included, covers the pixels a to b + p - 1, and so every patch that begins in its run.
A rectangle's places are pairs of these, so the masks of an image are the products of the masks of its axes.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from defences.errors import InvalidInput
from models.classifier import Images
from models.image_rows import ImageRows, blocks

MASKS = (3, 3)
"""Along the height and along the width: nine masks, ten model calls with the image itself."""

Boxes = NDArray[np.int64]
"""Rectangles int64 [m, 4] as [top, left, bottom, right]; bottom and right are the first row and column outside."""

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


def spans(side: int, patch: int, masks: int) -> list[tuple[int, int]]:
    """The masks of an axis, first pixel and first one after: as many as wanted, but no more than a patch has places.

    Args:
        side, patch: of the image and of the patch, in pixels, 1 <= patch <= side.
        masks: at least 1.

    >>> spans(32, 5, 3)
    [(0, 14), (10, 23), (19, 32)]
    """
    places = side - patch + 1
    runs = np.array_split(np.arange(places), min(masks, places))
    return [(int(run[0]), int(run[-1]) + patch) for run in runs]


def mask_boxes(shape: tuple[int, ...], patch: tuple[int, int], masks: tuple[int, int] = MASKS) -> Boxes:
    """The masks of an image of this shape [h, w, ...], row by row.

    >>> mask_boxes((8, 6), (3, 3), (2, 1)).tolist()
    [[0, 0, 5, 6], [3, 0, 8, 6]]
    """
    rows, columns = (spans(*axis) for axis in zip(shape[:2], patch, masks, strict=True))
    return np.array([[top, left, bottom, right] for top, bottom in rows for left, right in columns])


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
