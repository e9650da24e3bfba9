"""Kinds of changes that triggers are made of, as what is added to an image: anything that is weak, or a few pixels of any strength."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.classifier import Images


class Weak:
    """|d|_2 <= radius * sqrt(h * w * c): blended patterns, stripes, and small patches too."""

    grows = False

    def bound(self, shape: tuple[int, int, int], radius: float) -> float:
        """The largest |d|_2, which is also the length of a whole step."""
        return radius * float(np.sqrt(np.prod(shape)))

    def bounded(self, patterns: Images, radius: float) -> Images:
        """The nearest patterns within the bound."""
        lengths = np.sqrt((patterns**2).sum(axis=(1, 2, 3), keepdims=True))
        return _images(patterns * np.minimum(1, self.bound(patterns.shape[1:], radius) / np.maximum(lengths, 1e-12)))


class Sparse:
    """sum over pixels of |d_pixel|_2 <= radius * h * w: pixels and patches. Such a sum is least, at a given effect, for few pixels."""

    grows = True

    def bound(self, shape: tuple[int, int, int], radius: float) -> float:
        """The length |d|_2 of pixels that are changed by 1 and use up the sum."""
        return float(np.sqrt(radius * shape[0] * shape[1]))

    def bounded(self, patterns: Images, radius: float) -> Images:
        """The nearest patterns within the bound: all pixels are drawn towards 0 by the same length (Duchi et al. 2008)."""
        k, h, w, _ = patterns.shape
        lengths = np.sqrt((patterns**2).sum(axis=3)).reshape(k, -1)
        most = radius * h * w
        descending = -np.sort(-lengths, axis=1)
        less = (np.cumsum(descending, axis=1) - most) / np.arange(1, h * w + 1)
        kept = (descending > less).sum(axis=1)
        shrunk = np.maximum(less[np.arange(k), kept - 1], 0)
        scale = np.maximum(1 - shrunk[:, None] / np.maximum(lengths, 1e-12), 0)
        return _images(patterns * scale.reshape(k, h, w, 1))


def _images(values: NDArray[np.floating]) -> Images:
    return values.astype(np.float32, copy=False)
