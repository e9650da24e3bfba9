"""Images that come as raw numbers, whatever file or protocol they are wrapped in: shape, count, range, scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.classifier import Images
from service.errors import NoImages, OutOfRange, TooManyImages, WrongShape

_WHITE = np.float32(255)
_DIMENSIONS_SHOWN = 5


@dataclass(frozen=True)
class Tensors:
    """Lets arrays of one shape in.

    Args:
        input_shape: (h, w, c) of one image. Where c is 1, n×h×w is taken as well as n×h×w×1.
        images_at_most: in one request.
    """

    input_shape: tuple[int, int, int]
    images_at_most: int

    def numbers_in(self, shape: tuple[int, ...]) -> int:
        """How many numbers an array of this shape has, before there is one. Raises: WrongShape, NoImages, TooManyImages."""
        h, w, c = self.input_shape
        if shape[1:] != (h, w, c) and not (c == 1 and shape[1:] == (h, w)):
            raise WrongShape(detail=f"Expected {self.shapes}, got {_shown(shape)}.")
        if shape[0] < 1:
            raise NoImages
        if shape[0] > self.images_at_most:
            raise TooManyImages(self.images_at_most)
        return shape[0] * h * w * c

    @property
    def shapes(self) -> str:
        """The shapes that are taken, in words."""
        h, w, c = self.input_shape
        return f"the shape [n, {h}, {w}, {c}]" + f" or [n, {h}, {w}]" * (c == 1)

    def images(self, values: NDArray[Any]) -> Images:
        """The images in an array of as many numbers as `numbers_in` said: floats in [0, 1], or whole numbers from 0 to 255.

        Any byte or memory order. Never a view of the body: that is read-only, and the compiled stages behind would be compiled anew for
        such an array, under the first request that has one. The one copy is checked in place. Raises: OutOfRange.
        """
        if values.dtype.kind in "iu":
            if values.dtype != np.uint8 and not (values.min() >= 0 and values.max() <= _WHITE):
                raise OutOfRange(detail=LEVELS)
            images = np.empty(values.shape, np.float32)
            np.divide(values.astype(np.uint8, copy=False), _WHITE, out=images)
        else:
            if values.dtype.itemsize > 4 and not _in_range(values):
                raise OutOfRange  # before it is a float32, which 1e39 is not
            images = values.astype(np.float32, order="C")
            if not _in_range(images):
                raise OutOfRange
        return images.reshape(-1, *self.input_shape)


LEVELS = "Every pixel has to be from 0 to 255 where the numbers are whole ones."


def _in_range(values: NDArray[Any]) -> bool:
    # A NaN is neither: minimum and maximum hand it on, and it is not in [0, 1].
    return bool(values.min() >= 0 and values.max() <= 1)


def _shown(shape: Sequence[int]) -> str:
    return f"{list(shape)}" if len(shape) <= _DIMENSIONS_SHOWN else f"{len(shape)} dimensions"
