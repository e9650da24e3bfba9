"""What a layer's features are, whatever the framework: its activations, averaged once more until few numbers are left.

Maths: a feature map [h, w, c] is averaged over squares until it has no more than FEATURES_AT_MOST numbers, as its activations are
(`layers.py`), and these over squares until they have no more than POOLED_AT_MOST. Both steps are poolings with padding "same", so that
features are a linear function of activations: an attack on features goes back through `activation_gradients`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from models.classifier import Activations, DifferentiableActivations, Features, Images
from models.engines.reading.layers import FEATURES_AT_MOST, averaged, one_of, side_of_squares, spread
from models.errors import InvalidInput

POOLED_AT_MOST = 600
"""Of a layer's features; a map of more channels keeps a number for each."""

MapShape = tuple[int, int, int]
"""(h, w, c) of a feature map."""


def poolings(shape: MapShape) -> tuple[int, ...]:
    """The sides of the squares that a map is averaged over, one pooling after the other; none that leaves it as it is.

    >>> poolings((26, 26, 16)), poolings((5, 5, 16)), poolings((56, 56, 64))
    ((2, 3), (), (7, 3))
    """
    first = side_of_squares(*shape)
    second = side_of_squares(*_after(shape, first), at_most=POOLED_AT_MOST)
    return tuple(side for side in (first, second) if side > 1)


def width(shape: MapShape) -> int:
    """How many features a map has.

    >>> width((26, 26, 16)), width((5, 5, 16)), width((7, 7, 2048))
    (400, 400, 2048)
    """
    for side in poolings(shape):
        shape = _after(shape, side)
    return int(np.prod(shape))


def features_of(activations: Activations, shape: MapShape) -> Features:
    """The features [n, d] of a layer whose activations [n, a] these are, and whose map has this shape."""
    read = _read(shape)
    maps = activations.reshape(len(activations), *read)
    side = side_of_squares(*read, at_most=POOLED_AT_MOST)
    pooled = averaged(maps, side) if side > 1 else maps
    return np.ascontiguousarray(pooled.reshape(len(pooled), width(shape)))


def feature_gradients(
    classifier: DifferentiableActivations, images: Images, shapes: Mapping[str, MapShape], by_features: Features
) -> Images:
    """Backpropagate a gradient by the features [n, d] of several layers to one by the images [n, h, w, c].

    Args:
        shapes: of the maps, by layer, in the order of the features.

    Cost: a forward and a backward pass per layer and image.
    """
    total, start = np.zeros_like(images), 0
    for layer, shape in shapes.items():
        end, read = start + width(shape), _read(shape)
        side = side_of_squares(*read, at_most=POOLED_AT_MOST)
        by_pooled = by_features[:, start:end].reshape(len(images), *_after(read, side))
        by_activations = spread(by_pooled, read, side) if side > 1 else by_pooled
        total += classifier.activation_gradients(images, layer, by_activations.reshape(len(images), -1))
        start = end
    return total


def chosen(blocks: Mapping[str, MapShape], layers: Sequence[str]) -> dict[str, MapShape]:
    """The shapes of these layers. Raises: InvalidInput: none, or one that is no block; the message lists them."""
    if not layers or not set(layers) <= blocks.keys():
        known = one_of(list(blocks)) if blocks else "a model with convolutions, whose blocks can be read"
        raise InvalidInput(f"expected layers that are {known}, got {', '.join(layers) or 'none'}")
    return {layer: blocks[layer] for layer in layers}


def _read(shape: MapShape) -> MapShape:
    """The shape of its activations, averaged as `layers.flattened` does."""
    return _after(shape, side_of_squares(*shape, at_most=FEATURES_AT_MOST))


def _after(shape: MapShape, side: int) -> MapShape:
    h, w, c = shape
    return -(-h // side), -(-w // side), c
