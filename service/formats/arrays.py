"""Images that come as raw numbers, whatever file or protocol they are wrapped in: shape, count, range, scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.classifier import Images
from service.errors import NoImages, OutOfRange, TooManyImages, WrongShape

_WHITE = np.float32(255)


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
            raise WrongShape
        if shape[0] < 1:
            raise NoImages
        if shape[0] > self.images_at_most:
            raise TooManyImages(self.images_at_most)
        return shape[0] * h * w * c

    def images(self, values: NDArray[Any]) -> Images:
        """The images in an array of float32, any byte or memory order, or uint8, with as many numbers as `numbers_in` said.

        Never a view of the body: that is read-only, and the compiled stages behind would be compiled anew for such an array,
        under the first request that has one. The one copy is checked in place. Raises: OutOfRange.
        """
        if values.dtype == np.uint8:
            images = np.empty(values.shape, np.float32)
            np.divide(values, _WHITE, out=images)
        else:
            images = values.astype(np.float32, order="C")
            # A NaN is neither: minimum and maximum hand it on, and it is not in [0, 1].
            if not (images.min() >= 0 and images.max() <= 1):
                raise OutOfRange
        return images.reshape(-1, *self.input_shape)
