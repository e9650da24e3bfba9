"""What reading a layer means, whatever the framework: which name it has, and how a large feature map becomes a vector.

Maths: a map [h, w, c] of more than FEATURES_AT_MOST numbers is averaged over squares of side s, the smallest with
ceil(h / s) ceil(w / s) c <= FEATURES_AT_MOST; squares that reach over an edge are averaged over the pixels they have. The squares lie as
those of a pooling with padding "same": the missing pixels are shared between both edges, the odd one at the end.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.classifier import Activations
from models.errors import InvalidInput

FEATURES_AT_MOST = 4096
"""A feature map [h, w, c] of more numbers is averaged over squares until it has no more; a vector is kept as it is."""


def side_of_squares(h: int, w: int, c: int, *, at_most: int = FEATURES_AT_MOST) -> int:
    """The side in pixels of the squares that a feature map is averaged over, to have so many numbers; 1 where it is kept as it is.

    >>> side_of_squares(28, 28, 3), side_of_squares(32, 32, 8), side_of_squares(3, 3, 9000)
    (1, 2, 3)
    """
    sides = range(1, max(h, w) + 1)
    return next(side for side in sides if -(-h // side) * -(-w // side) * c <= at_most or side >= max(h, w))


def averaged(maps: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Feature maps [n, h, w, c] averaged over squares of this side: [n, ceil(h / side), ceil(w / side), c]."""
    for axis in (1, 2):
        length = maps.shape[axis]
        missing = -(-length // side) * side - length
        starts = np.maximum(np.arange(0, length + missing, side) - missing // 2, 0)
        counts = np.diff(np.append(starts, length)).astype(np.float32)
        sums = np.add.reduceat(maps, starts, axis=axis)
        maps = (sums / counts.reshape([-1 if at == axis else 1 for at in range(4)])).astype(np.float32, copy=False)
    return maps


def spread(by_averaged: NDArray[np.float32], shape: tuple[int, int, int], side: int) -> NDArray[np.float32]:
    """The adjoint of `averaged`: a gradient by the averages [n, ...] as one by the maps [n, *shape], shape (h, w, c)."""
    for axis in (1, 2):
        length = shape[axis - 1]
        missing = -(-length // side) * side - length
        square = (np.arange(length) + missing // 2) // side
        weight = (1 / np.bincount(square)).astype(np.float32)[square]
        by_averaged = by_averaged.take(square, axis=axis) * weight.reshape([-1 if at == axis else 1 for at in range(4)])
    return by_averaged


def flattened(outputs: NDArray[np.floating]) -> Activations:
    """Outputs of a layer [n, ...] as activations float32 [n, d]; feature maps [n, h, w, c] are averaged over squares first."""
    values = outputs.astype(np.float32, copy=False)
    if values.ndim == 4 and (side := side_of_squares(*values.shape[1:])) > 1:
        values = averaged(values, side)
    return values.reshape(len(values), int(np.prod(values.shape[1:])))


def position(names: Sequence[str], layer: str | int) -> int:
    """The position of a layer among the names: by position, also from the end, by name, or by the last part of `outer/inner`.

    Raises: InvalidInput: none, or several of that last part; the message lists them.
    """
    if isinstance(layer, int):
        if -len(names) <= layer < len(names):
            return layer % len(names)
        raise InvalidInput(
            f"expected a layer from {-len(names)} to {len(names) - 1} or its name, got {layer}: {', '.join(names)}"
        )
    matching = [at for at, name in enumerate(names) if name == layer]
    matching = matching or [at for at, name in enumerate(names) if name.rpartition("/")[2] == layer]
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise InvalidInput(f"expected one layer, got {layer!r}, which is {one_of([names[at] for at in matching])}")
    raise InvalidInput(f"expected {one_of(names)} as the layer, got {layer!r}")


def one_of(names: Sequence[str]) -> str:
    """The names, for a sentence."""
    return f"one of {', '.join(names)}"
